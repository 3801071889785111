"""Runs of one and two processes on this CPU, for the prediction to stand beside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.scaling.costs import one_thread, time_processor
from benchmarks.scaling.prediction import STATE_BYTES
from dfine_lib.data.coco import find_split, read_coco
from dfine_lib.data.samples import CocoImages, SampleKey
from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train.run_folder import read_rows

RUNS = (("n", 320), ("s", 320))  # size, side
PROCESSES = (1, 2)
BATCH, STEPS = 8, 4  # of all processes; of an epoch: the first warms up, the second counts


def check(data: Path) -> dict[str, Any]:
    """Costs that only this machine has, and the seconds of a step of each run."""
    measured = {"1": time_processor(), "2": _of_two(), "memory_before": _memory_before()}
    with tempfile.TemporaryDirectory() as folder:
        small = _small(data, Path(folder))
        measured |= {f"sample_seconds_{side}": _sample_seconds(small, side) for side in {side for _, side in RUNS}}
        runs = [
            {"size": size, "side": side, "processes": n, **_run(size, side, n, small, Path(folder) / f"{size}{n}")}
            for size, side in RUNS
            for n in PROCESSES
        ]
    return {"processor": measured, "batch": BATCH, "runs": runs}


def memory_of(costs: Mapping[str, Any], run: Mapping[str, Any], processor: Mapping[str, float]) -> float:
    """Predicted peak of one process of a run, MiB."""
    cost = costs["sizes"][run["size"]]
    images = BATCH / run["processes"] * run["side"] ** 2 / 640**2
    return processor["memory_before"] + (STATE_BYTES * cost["parameters"] + images * cost["saved_bytes"]) / 2**20


def _small(data: Path, folder: Path) -> Path:
    """The first images of the train split, and one of the val split, which is scored at the end of a run."""
    named = {}
    for split, most in (("train", BATCH * STEPS), ("val", 1)):
        file, images = find_split(data, split)
        content = json.loads(Path(file).read_text())
        content["images"] = content["images"][:most]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        (folder / f"{split}.json").write_text(json.dumps(content))
        named[split] = {"annotations": f"{split}.json", "images": str(Path(images).resolve())}
    (folder / "set.json").write_text(json.dumps(named))
    return folder / "set.json"


def _run(size: str, side: int, processes: int, data: Path, out: Path) -> dict[str, float]:
    settings = ["data.base_size_repeat=none", "train.adapt_to_length=false", "train.stop_epoch=9"]
    command = [sys.executable, "-m", "dfine_tools.cli", "train", "--recipe", f"{size}_coco", "--data", str(data)]
    command += ["--out", str(out), "--epochs", "2", "--image-size", str(side), "--batch-size", str(BATCH)]
    command += ["--workers", "0", "--device", "cpu", "--nproc", str(processes)]
    for setting in [*settings, "train.evaluate_every=2"]:
        command += ["--set", setting]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "2000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    row = [row for row in read_rows(out / "metrics.jsonl") if row["kind"] == "train"][-1]
    return {"step": row["seconds_per_step"], "waited": row["data_wait_share"], "memory_mb": row["memory_mb"]}


def _sample_seconds(data: Path, side: int) -> float:
    index = read_coco(*find_split(data, "train"))
    images = CocoImages(index, changed(get_recipe("n_coco"), {"data.image_size": side}).data)
    with one_thread():
        images[SampleKey(0, 0, True)]
        start = time.perf_counter()
        for i in range(len(index)):
            images[SampleKey(1, i, True)]
        return (time.perf_counter() - start) / len(index)


def _memory_before() -> float:
    """MiB of a process that has imported what a training imports, and done nothing."""
    program = (
        "import resource, dfine_tools.analysis.saved, dfine_lib.train.trainer\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def _of_two(megabytes: int = 16, repeat: int = 5) -> dict[str, float]:
    """As `time_processor`, in two processes at once; and bytes a second of gloo's all-reduce between them."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_exchange, (folder, megabytes, repeat), nprocs=2)
        return json.loads((Path(folder) / "rates.json").read_text())


def _exchange(rank: int, folder: str, megabytes: int, repeat: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    values = torch.ones(megabytes * 2**20 // 4)
    dist.all_reduce(values)
    start = time.perf_counter()
    for _ in range(repeat):
        dist.all_reduce(values)
    exchange = repeat * values.numel() * 4 / (time.perf_counter() - start)
    dist.barrier()
    rates = time_processor() | {"exchange": exchange}
    if rank == 0:
        (Path(folder) / "rates.json").write_text(json.dumps(rates))
    dist.barrier()
    dist.destroy_process_group()
