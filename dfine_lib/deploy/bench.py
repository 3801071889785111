"""What a detector costs: parameters and operations as published, and milliseconds, images a second and memory here."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfine_lib.config import SIZES, ModelConfig
from dfine_lib.deploy.backends import Backend, open_backend
from dfine_lib.deploy.gate import report_path
from dfine_lib.deploy.predict import Predictor, network_input
from dfine_lib.deploy.sources import ImageSource, SourceError, find_source, read_picture
from dfine_lib.evaluate.compare import as_text
from dfine_lib.evaluate.profile import PUBLISHED, profile
from dfine_lib.evaluate.results import PUBLISHED_AP
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import locate_weights, read_weights
from dfine_lib.train.run_folder import describe_machine

# Milliseconds an image in the table of the authors' README: one T4, batch 1, fp16, TensorRT 10.4.
PUBLISHED_LATENCY_MS = {"n": 2.12, "s": 3.49, "m": 5.62, "l": 8.07, "x": 12.89}
AUTHORS_RUNS = 1000  # as many to warm up, and as many pictures that count
_EXPORTED = (".onnx", ".xml", ".engine")
_LEAST_RUNS, _MOST_RUNS = 5, 1000


@dataclass(frozen=True)
class Cost:
    """Counts of a model for one image, in the published convention: see `dfine_lib.evaluate.profile`."""

    model: str
    image_hw: tuple[int, int]
    parameters: int  # as deployed: norms folded, what only training needs gone
    training_parameters: int
    macs: int  # multiply-adds of convolutions and linear layers
    flops: int  # twice those, and norms, activations, softmaxes, biases
    published: tuple[int, int] | None  # millions of parameters and GFLOPs of the authors' table, if it is that model


@dataclass(frozen=True)
class Spread:
    """Milliseconds of one call over many of them."""

    median: float
    low: float  # quartiles
    high: float
    runs: int


@dataclass(frozen=True)
class Latency:
    """How fast one file is on one backend, in batches of one size."""

    model: str
    backend: str
    precision: str  # as the file says; "" where it does not
    device: str
    image_hw: tuple[int, int]
    batch: int
    model_only: Spread  # pixels in memory to boxes in memory, top-k included
    end_to_end: Spread  # files opened, decoded, resized, and the same; one after the other
    images_per_second: float  # model only: batch / median
    end_to_end_per_second: float  # of `Predictor.stream`, where reading and inference overlap
    memory_mb: float | None  # largest growth of the process (of the GPU's memory on one) over opening and running
    ap: float | None = None  # where a file beside the model says so
    ap_from: str = ""  # which file


@dataclass(frozen=True)
class BenchReport:
    """All of it, with the machine."""

    costs: tuple[Cost, ...]
    latencies: tuple[Latency, ...]
    pictures: str
    machine: dict[str, Any]

    def cost_rows(self) -> list[dict[str, Any]]:
        """A row a model, in millions and billions; published numbers beside ours."""
        return [
            {
                "model": cost.model, "input": _sides(cost.image_hw), "parameters, M": cost.parameters / 1e6,
                "in training, M": cost.training_parameters / 1e6, "GMACs": cost.macs / 1e9, "GFLOPs": cost.flops / 1e9,
                "published M": cost.published and cost.published[0],
                "published GFLOPs": cost.published and cost.published[1],
            }
            for cost in self.costs
        ]  # fmt: skip

    def latency_rows(self) -> list[dict[str, Any]]:
        """A row a model, backend and batch."""
        return [
            {
                "model": row.model, "backend": row.backend, "precision": row.precision or None, "device": row.device,
                "input": _sides(row.image_hw), "batch": row.batch, "model ms": row.model_only.median,
                "middle half": f"{row.model_only.low:.1f}..{row.model_only.high:.1f}", "runs": row.model_only.runs,
                "images/s": row.images_per_second, "end to end ms": row.end_to_end.median,
                "its middle half": f"{row.end_to_end.low:.1f}..{row.end_to_end.high:.1f}",
                "overlapped images/s": row.end_to_end_per_second,
                "memory MB": None if row.memory_mb is None else round(row.memory_mb), "AP": row.ap,
            }
            for row in self.latencies
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "costs": [asdict(cost) for cost in self.costs],
            "latencies": [asdict(row) for row in self.latencies],
            "published": {
                size: {"latency_ms": ms, "ap": PUBLISHED_AP[f"{size}_coco"], "of": "the authors; T4, TensorRT fp16"}
                for size, ms in PUBLISHED_LATENCY_MS.items()
            },
            "pictures": self.pictures,
            **self.machine,
        }  # fmt: skip

    def __str__(self) -> str:
        machine = self.machine["machine"]
        about = f"{machine['processor']}, {machine['cores']} cores, {self.machine['threads']} thread(s) of torch"
        tables = [as_text(rows) for rows in (self.cost_rows(), self.latency_rows()) if rows]
        return "\n\n".join([*tables, f"{about}; pictures: {self.pictures}"])


def bench(
    models: Sequence[str | Path],
    *,
    backends: Sequence[str] = ("auto",),
    batches: Sequence[int] = (1,),
    image_size: int | tuple[int, int] | None = None,
    images: Any = None,
    device: str = "auto",
    seconds: float = 3.0,
) -> BenchReport:
    """Count and measure some models by the same pictures.

    Args:
        models: files as `open_backend` takes them, or a size (`n`, `s`, `m`, `l`, `x`, `pico`): that model with random
            weights, run by torch. An exported file's precision is its own.
        backends: which run each file; one that cannot run a file passes it over. `auto`: one by the file.
        batches: images a call; a file of one batch size is measured with that.
        image_size: side, or (height, width); None: as the file says, else 640.
        images: pictures to read end to end, as `find_source` takes them; None: two photographs that scikit-learn
            brings.
        device: as for `open_backend`.
        seconds: how long each kind of call is repeated, after a third of that to warm up.

    Raises:
        BackendError, WeightsError: a file that cannot be run by any of `backends`.
        SourceError: no pictures.
        ValueError: no model, or a batch below 1.
    """
    if not models:
        raise ValueError("no model to measure")
    if min(batches, default=0) < 1:
        raise ValueError(f"batches must be at least 1, got {list(batches)}")
    files = _pictures(images)
    costs, latencies = [], []
    for model in models:
        source = _random(str(model)) if str(model) in SIZES else model
        opened = [_opener(source, name, device, image_size) for name in _runs(source, backends)]
        for opening in opened:
            for number, batch in enumerate(batches):
                peak = Peak(device)
                backend = opening()
                if backend.batch is not None and number:
                    break
                row = latency(backend, files, backend.batch or batch, seconds=seconds)
                known = known_ap(model, backend.name)
                latencies.append(Latency(
                    model=_short(model), memory_mb=peak.megabytes(), ap=known and known[0],
                    ap_from=known[1] if known else "", **row,
                ))  # fmt: skip
                image_hw = backend.image_hw
                del backend
        config = _config(source)
        if config is not None:
            costs.append(cost(config, _short(model), image_hw))
    machine = describe_machine(torch.device("cuda" if device.startswith("cuda") else "cpu"))
    return BenchReport(tuple(costs), tuple(latencies), _told(files, images), machine | {"versions": _versions(machine)})


def cost(config: ModelConfig, name: str, image_hw: tuple[int, int] = (640, 640)) -> Cost:
    """Parameters, multiply-adds and FLOPs of a model's deployed form for one image, in the published convention."""
    total = profile(config, image_hw).total
    size = next((s for s in PUBLISHED if SIZES[s] == config and tuple(image_hw) == (640, 640)), None)
    return Cost(
        name, tuple(image_hw), total.deployed_parameters, total.parameters, total.macs, total.flops,
        None if size is None else PUBLISHED[size],
    )  # fmt: skip


def latency(backend: Backend, files: Sequence[Path], batch: int = 1, *, seconds: float = 3.0) -> dict[str, Any]:
    """The fields of `Latency` that can be measured on a backend.

    Args:
        files: pictures, taken in turn.
        batch: images a call.
        seconds: see `bench`.
    """
    turns = itertools.cycle(files)

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        pictures = [read_picture(next(turns)) for _ in range(batch)]
        sizes_wh = torch.tensor([[picture.shape[2], picture.shape[1]] for picture in pictures])
        return torch.stack([network_input(picture, backend.image_hw) for picture in pictures]), sizes_wh

    images, sizes_wh = read()
    pixels, sizes = (images.contiguous().float() / 255).numpy(), sizes_wh.numpy()
    model_only = repeated(lambda: backend.answer(pixels, sizes), seconds)
    end_to_end = repeated(lambda: backend.detect(*read()), seconds)
    count = batch * min(_MOST_RUNS, max(_LEAST_RUNS, math.ceil(1000 * seconds / model_only.median)))
    source = ImageSource(tuple(itertools.islice(itertools.cycle(files), count)))
    start = time.perf_counter()
    for _ in Predictor.of(backend).stream(source, batch_size=batch):
        pass
    return dict(
        backend=backend.name, precision="fp32" if backend.name == "torch" else backend.about.get("precision", ""),
        device=backend.device, image_hw=backend.image_hw, batch=batch, model_only=model_only, end_to_end=end_to_end,
        images_per_second=1000 * batch / model_only.median,
        end_to_end_per_second=count / (time.perf_counter() - start),
    )  # fmt: skip


def repeated(call: Callable[[], Any], seconds: float) -> Spread:
    """Time a call again and again; a third of `seconds` before that warms up."""
    _times(call, seconds / 3)
    times = _times(call, seconds)
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Spread(median, low, high, len(times))


def authors_latency(backend: Backend, folder: str | Path, runs: int = AUTHORS_RUNS) -> float:
    """Mean milliseconds of a batch of one over a folder of images, as the authors time TensorRT engines.

    So many runs to warm up, then so many images of the folder, each prepared before the clock starts. What the clock
    sees here besides is the way of pixels and answers to and from the device. Meant for an engine on a GPU and COCO's
    val2017; not run on one yet.

    Raises:
        SourceError: no pictures in the folder.
    """
    files = itertools.islice(itertools.cycle(_pictures(folder)), runs)
    pictures = (read_picture(file) for file in files)
    times = []
    for number, picture in enumerate(pictures):
        pixels = (network_input(picture, backend.image_hw)[None].contiguous().float() / 255).numpy()
        sizes = np.array([[picture.shape[2], picture.shape[1]]], np.int64)
        for _ in range(runs if number == 0 else 0):
            backend.answer(pixels, sizes)
        start = time.perf_counter()
        backend.answer(pixels, sizes)  # its answers are in the host's memory, so the device has ended
        times.append(1000 * (time.perf_counter() - start))
    return statistics.fmean(times)


def known_ap(model: str | Path, backend: str) -> tuple[float, str] | None:
    """AP that stands beside a model's file, and where: an export's gate report, or the result of a finished run."""
    gate_report, run = report_path(model), Path(model).parent / "metrics.json"
    try:
        if gate_report.is_file():
            checks = json.loads(gate_report.read_text(encoding="utf-8"))["checks"]
            found = [c["numbers"]["exported"]["ap"] for c in checks if c["name"] == f"{backend}: AP"]
            return (float(found[0]), gate_report.name) if found and found[0] is not None else None
        if Path(model).suffix == ".safetensors" and run.is_file():
            return float(json.loads(run.read_text(encoding="utf-8"))["ap"]), run.name
    except (ValueError, TypeError, KeyError):
        return None  # another program's file of that name
    return None


class Peak:
    """Growth of memory from here on: of the process, or on a GPU of what torch has taken there."""

    def __init__(self, device: str = "cpu") -> None:
        self.on_gpu = torch.cuda.is_available() and device != "cpu"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self.before = _status("VmRSS")
        except OSError:  # no Linux, or not allowed
            self.before = None

    def megabytes(self) -> float | None:
        """The largest so far; None where the system does not tell."""
        if self.on_gpu:
            return (torch.cuda.max_memory_allocated() - self.before) / 2**20
        return None if self.before is None else max(0, _status("VmHWM") - self.before) / 1024


def _status(key: str) -> int:
    """Kilobytes, from what Linux says of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def _times(call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each call, for that long."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_RUNS or (time.perf_counter() < end and len(times) < _MOST_RUNS):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return times


def _runs(source: str | Path | DFINE, backends: Sequence[str]) -> Iterator[str]:
    """Those of the backends that run this file; all of them where none does, so that the error says why."""
    if isinstance(source, DFINE) or Path(source).suffix not in _EXPORTED:
        able = {"auto", "torch"}
    else:
        able = {"auto", *({"onnxruntime", "openvino"} if Path(source).suffix == ".onnx" else set(backends) - {"torch"})}
        able -= {"onnxruntime"} if Path(source).suffix == ".xml" else set()
    return iter([name for name in backends if name in able] or backends)


def _opener(source, name, device, image_size) -> Callable[[], Backend]:
    return lambda: open_backend(source, backend=name, device=device, image_size=image_size)


def _random(size: str) -> DFINE:
    torch.manual_seed(0)
    return DFINE(SIZES[size]).eval()


def _config(source: str | Path | DFINE) -> ModelConfig | None:
    if isinstance(source, DFINE):
        return source.config
    return None if Path(source).suffix in _EXPORTED else read_weights(locate_weights(source)).model


def _pictures(images: Any) -> list[Path]:
    if images is None:
        from sklearn import datasets

        images = Path(datasets.__file__).parent / "images"
    found = find_source(images)
    if not isinstance(found, ImageSource) or not all(isinstance(item, str | Path) for item in found.items):
        raise SourceError(f"{images}: speed is measured on picture files; give a folder of them.")
    return [Path(item) for item in found.items]


def _told(files: Sequence[Path], images: Any) -> str:
    return "two photographs that scikit-learn brings" if images is None else f"{len(files)} of {images}"


def _versions(machine: dict[str, Any]) -> dict[str, str]:
    from importlib import metadata

    versions = dict(machine["versions"])
    for package in ("onnxruntime", "openvino", "tensorrt"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _short(model: str | Path) -> str:
    return Path(model).name


def _sides(image_hw: tuple[int, int]) -> str:
    return f"{image_hw[0]} x {image_hw[1]}"
