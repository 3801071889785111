"""Some detectors on some backends, counted and timed: one table, next to the published numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data_tools.ledger import Ledger
from dfine_lib.config import SIZES, ModelConfig
from dfine_lib.errors import DfineError
from dfine_lib.model.dfine import DFINE
from dfine_tools.deploy.backends import KINDS, DeviceError, open_backend
from dfine_tools.deploy.timing import CallTimes, Cost, PeakMemory, cost, image_files, latency
from dfine_tools.deploy.validation import report_path
from dfine_tools.published import PUBLISHED_AP, PUBLISHED_LATENCY_MS
from dfine_tools.runs.machine import describe_machine
from dfine_tools.tables import as_text
from dfine_tools.weights.sources import read


@dataclass(frozen=True)
class Latency:
    """How fast one file is on one backend, in batches of one size."""

    model: str
    backend: str
    precision: str  # as the file says; "" where it does not
    device: str
    image_hw: tuple[int, int]
    batch: int
    model_only: CallTimes  # pixels in memory to boxes in memory, top-k included
    end_to_end: CallTimes  # files opened, decoded, resized, and the same; one after the other
    images_per_second: float  # model only: batch / median
    end_to_end_per_second: float  # of `Predictor.stream`, where reading and inference overlap
    memory_mb: float | None  # peak over opening and running, where it can be counted
    memory_counts: str  # what that is: "growth of the process", "allocated by torch on the GPU"; "" with None
    ap: float | None = None  # where a file beside the model says so
    ap_from: str = ""  # which file


@dataclass(frozen=True)
class BenchReport:
    """All of it, with the machine."""

    costs: tuple[Cost, ...]
    latencies: tuple[Latency, ...]
    images: str
    ledger: Ledger  # of the images
    machine: dict[str, Any]
    not_run: tuple[str, ...] = ()  # why a backend did not run a file: it does not run on the device that was asked for

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
                "interquartile range": f"{row.model_only.low:.1f}..{row.model_only.high:.1f}",
                "runs": row.model_only.runs,
                "images/s": row.images_per_second, "end to end ms": row.end_to_end.median,
                "its interquartile range": f"{row.end_to_end.low:.1f}..{row.end_to_end.high:.1f}",
                "overlapped images/s": row.end_to_end_per_second,
                "peak memory MB": None if row.memory_mb is None else round(row.memory_mb),
                "memory counted": row.memory_counts or None, "AP": row.ap,
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
            "pictures": self.images,  # old name
            "ledger": self.ledger.to_dict(),
            "not_run": list(self.not_run),
            **self.machine,
        }  # fmt: skip

    def __str__(self) -> str:
        machine = self.machine["machine"]
        left_out = [self.ledger.summary(kind) for kind in self.ledger.kinds() if self.ledger.reasons(kind)]
        about = f"{machine['processor']}, {machine['cores']} cores, {self.machine['threads']} thread(s) of torch"
        tables = [as_text(rows) for rows in (self.cost_rows(), self.latency_rows()) if rows]
        not_run = [f"not run: {reason}" for reason in self.not_run]
        return "\n\n".join([*tables, f"{about}; images: {self.images}", *left_out, *not_run])


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
    """Count and measure some models by the same images.

    Args:
        models: files as `open_backend` takes them, or a size (`n`, `s`, `m`, `l`, `x`, `pico`): that model with random
            weights, run by torch. An exported file's precision is its own.
        backends: which run each file; one that cannot run a file passes it over. `auto`: one by the file. What does not
            run on `device` is left out and named in the report.
        batches: images a call; a file of one batch size is measured with that.
        image_size: side, or (height, width); None: as the file says, else 640.
        images: to read end to end, as `find_source` takes them; what cannot be read is left out, and counted in the
            report's ledger; None: two photographs that scikit-learn brings.
        device: as for `open_backend`.
        seconds: how long each kind of call is repeated, after a third of that to warm up.

    Raises:
        BackendError, WeightsError: a file that cannot be run by any of `backends`, or nothing that runs on `device`.
        SourceError: no images.
        ValueError: no model, a batch below 1, or no time.
    """
    if not models:
        raise DfineError("no model to measure")
    if min(batches, default=0) < 1:
        raise DfineError(f"batches must be at least 1, got {list(batches)}")
    if not seconds > 0:
        raise DfineError(f"seconds must be above 0, got {seconds:g}")
    files, ledger = image_files(images)
    costs, latencies, not_run = [], [], []
    for model in models:
        source, name = _random(str(model)) if str(model) in SIZES else model, Path(model).name
        for runs in _runs(source, backends):
            for number, batch in enumerate(batches):
                peak = PeakMemory(device)
                try:
                    backend = open_backend(source, backend=runs, device=device, image_size=image_size)
                except DeviceError as error:
                    not_run.append(error)
                    break
                if backend.batch is not None and number:
                    break
                row = latency(backend, files, backend.batch or batch, seconds=seconds)
                known = known_ap(model, backend.name)
                memory_mb, memory_counts = peak.megabytes(backend.name, backend.device)
                latencies.append(Latency(
                    model=name, memory_mb=memory_mb, memory_counts=memory_counts, ap=known and known[0],
                    ap_from=known[1] if known else "", **row,
                ))  # fmt: skip
                image_hw = backend.image_hw
                del backend
        config = _config(source)
        if config is not None:
            costs.append(cost(config, name, image_hw))
    if not latencies:
        raise not_run[0]
    machine = describe_machine(_measured_on(latencies)) | {"devices": sorted({row.device for row in latencies})}
    machine["versions"] = _versions(machine)
    return BenchReport(
        tuple(costs), tuple(latencies), _source_of(files, images), ledger, machine, tuple(map(str, not_run))
    )


def _measured_on(latencies: Sequence[Latency]) -> torch.device:
    """The CUDA device that was measured, whatever was asked for; the processor where none was."""
    devices = [row.device.lower() for row in latencies if row.device.lower().startswith("cuda")]
    return torch.device(devices[0] if devices else "cpu")


def known_ap(model: str | Path, backend: str) -> tuple[float, str] | None:
    """AP in a file next to a model, and which file: an export's validation report, or the result of a finished run."""
    report, run = report_path(model), Path(model).parent / "metrics.json"
    try:
        if report.is_file():
            checks = json.loads(report.read_text(encoding="utf-8"))["checks"]
            found = [c["numbers"]["exported"]["ap"] for c in checks if c["name"] == f"{backend}: AP"]
            return (float(found[0]), report.name) if found and found[0] is not None else None
        if Path(model).suffix == ".safetensors" and run.is_file():
            ap = json.loads(run.read_text(encoding="utf-8"))["ap"]
            return None if ap is None else (float(ap), run.name)
    except (ValueError, TypeError, KeyError):
        return None  # another program's file of that name
    return None


def _runs(source: str | Path | DFINE, backends: Sequence[str]) -> Sequence[str]:
    """Those of the backends that run this file; all of them where none does, so that the error says why."""
    able = KINDS.get("" if isinstance(source, DFINE) else Path(source).suffix, ("torch",))
    return [name for name in backends if name in ("auto", *able)] or backends


def _random(size: str) -> DFINE:
    torch.manual_seed(0)
    return DFINE(SIZES[size]).eval()


def _config(source: str | Path | DFINE) -> ModelConfig | None:
    if isinstance(source, DFINE):
        return source.config
    return None if Path(source).suffix in KINDS else read(source).model


def _source_of(files: Sequence[Path], images: Any) -> str:
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


def _sides(image_hw: tuple[int, int]) -> str:
    return f"{image_hw[0]} x {image_hw[1]}"
