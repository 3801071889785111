"""Latency of an exported file in ONNX Runtime and OpenVINO, beside the file that the authors' exporter gives.

python -m benchmarks.exported_latency --authors path/to/D-FINE [--only n] [--runtime onnxruntime]

Same weights, an image of 640 x 640, batch 1, float32, on a CPU. Theirs is what torch's tracing exporter writes for
their deployed model and post-processing. The onnxsim that their script may run afterwards is left out; the nodes of
their file after onnxslim are counted too, and ours must not have more. Of ONNX Runtime, the time of convolutions alone
stands in the details: no exporter can save that part.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import authors
from benchmarks.peers.cases import Case
from benchmarks.peers.exporting import as_if_trained, authors_onnx
from benchmarks.ratio import Row, arguments, compare, record, use_threads
from dfine_tools.analysis.profile import profile
from dfine_tools.deploy.backends.openvino_runtime import shared_core
from dfine_tools.deploy.export import export_onnx

SIZES, SIDE, AT_MOST = "nsmlx", 640, 0.90
RUNTIMES = ("onnxruntime", "openvino")
IMAGES = 5  # of which one must have equal answers
Run = Callable[..., list[np.ndarray]]  # of the number of an image, 0 unless told


def main() -> None:
    parser = arguments(__doc__, turns=9)
    authors.add_argument(parser)
    parser.add_argument("--runtime", choices=RUNTIMES, help="only that one")
    parser.add_argument("--files", type=Path, help="folder to keep the exported files in, and to find them again")
    options = parser.parse_args()
    use_threads(options.threads)
    peer = authors.asked_for(options)
    if peer is None:
        return
    rows = []
    for size in SIZES:
        if options.only not in size:
            continue
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = both_files(size, peer, options.files or Path(folder))
            for runtime in [options.runtime] if options.runtime else RUNTIMES:
                rows.append(one_row(size, runtime, ours, theirs, options.turns))
                if not options.dry:
                    record("exported_latency", rows[-1:], versions=_versions(runtime))


def both_files(size: str, peer: authors.Authors, folder: Path) -> tuple[Path, Path]:
    """Our file and theirs of one model."""
    ours, theirs = folder / f"{size}_ours.onnx", folder / f"{size}_theirs.onnx"
    if not (ours.exists() and theirs.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        model = as_if_trained(Case(size, SIDE, 1).model(), torch.rand(1, 3, SIDE, SIDE))
        authors_onnx(peer, model, SIDE, theirs)
        export_onnx(model, ours, SIDE)
    return ours, theirs


def one_row(size: str, runtime: str, ours: Path, theirs: Path, turns: int) -> Row:
    """Check that both answer alike, then time them."""
    sessions = [_open(runtime, file) for file in (ours, theirs)]
    details = _equal(size, *sessions)
    details |= {
        "nodes": {"ours": _nodes(ours), "theirs": _nodes(theirs), "theirs, onnxslim": _nodes(theirs, slim=True)}
    }
    if runtime == "onnxruntime":
        shares = {name: convolution_share(file) for name, file in (("ours", ours), ("theirs", theirs))}
        details["convolutions, of one thread's time"] = shares
    details["gflop"] = profile(f"{size}_coco").total.flops / 1e9
    row = compare(
        lambda: _seconds(sessions[0]), lambda: _seconds(sessions[1]), turns=turns,
        what="latency of an exported file", case=f"{size}, {SIDE} px, {runtime}", against=authors.NAME,
        at_most=AT_MOST, details=details,
    )  # fmt: skip
    print("    " + json.dumps(details), flush=True)
    if details["nodes"]["ours"] > min(details["nodes"].values()):
        raise SystemExit(f"{size}: our file has more nodes than theirs: {details['nodes']}")
    return row


def _seconds(session: Run, runs: int = 3) -> float:
    """Mean of a few runs, after one to warm up, when the other session's threads have gone to sleep."""
    time.sleep(0.2)
    session()
    start = time.perf_counter()
    for _ in range(runs):
        session()
    return (time.perf_counter() - start) / runs


def _inputs(seed: int = 0) -> dict[str, np.ndarray]:
    image = np.random.default_rng(seed).random((1, 3, SIDE, SIDE), dtype=np.float32)
    return {"images": image, "orig_target_sizes": np.array([[SIDE, SIDE]])}


def _open(runtime: str, file: Path) -> Run:
    outputs, threads = ["labels", "boxes", "scores"], torch.get_num_threads()
    inputs = [_inputs(seed) for seed in range(IMAGES)]
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda image=0: session.run(outputs, inputs[image])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = shared_core().compile_model(file, "CPU", settings).create_infer_request()

    def run(image: int = 0) -> list[np.ndarray]:
        request.infer(inputs[image])
        return [request.get_tensor(name).data.copy() for name in outputs]

    return run


def _equal(size: str, ours: Run, theirs: Run) -> dict[str, Any]:
    """Scores in order, and the surest hundred as a set, on the first image where they agree; stops where none does.

    Two of a hundred may differ, for near-ties change places. Where the last of the chosen tokens is a near-tie the
    two files may choose another one, which all queries see; then another image tells.
    """
    found = []
    for image in range(IMAGES):
        our_labels, our_boxes, our_scores = ours(image)
        labels, boxes, scores = theirs(image)
        off = np.abs(our_boxes[0, :100, None] - boxes[0, None]).max(-1)  # px
        off[our_labels[0, :100, None] != labels[0, None]] = np.inf
        found.append((_most(np.abs(our_scores - scores)), _most(off.min(1))))
        if found[-1][0] <= 1e-3 and found[-1][1] <= 1e-3 * SIDE:
            return {"score_difference": found[-1][0], "box_difference_px": found[-1][1], "image": image}
    raise SystemExit(f"{size}: answers differ on all of {IMAGES} images, scores by and boxes by (px): {found}")


def _most(differences: np.ndarray) -> float:
    """What 98 of 100 do not exceed."""
    return float(np.quantile(differences, 0.98, method="higher"))


def _nodes(file: Path, slim: bool = False) -> int:
    import onnx
    import onnxslim

    model = onnx.load(file)
    return len((onnxslim.slim(model) if slim else model).graph.node)


def convolution_share(file: Path, runs: int = 4) -> dict[str, float]:
    """Milliseconds of all nodes, and of convolutions among them, by ONNX Runtime's profiler on one thread."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling, options.log_severity_level = 1, True, 3
        options.profile_file_prefix = str(Path(folder) / "run")
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, _inputs())
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str], list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            times.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    best = {key: min(durations) for key, durations in times.items()}
    conv = sum(value for (kind, _), value in best.items() if "Conv" in kind)
    return {"all_ms": sum(best.values()) / 1000, "convolutions_ms": conv / 1000}


def _versions(runtime: str) -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in (runtime, "onnx", "onnxslim")}


if __name__ == "__main__":
    main()
