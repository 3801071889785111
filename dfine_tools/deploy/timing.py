"""What one detector costs: parameters and operations as published, milliseconds of a call, memory."""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_tools.ledger import Ledger
from dfine_lib.config import SIZES, ModelConfig
from dfine_tools.analysis.profile import profile
from dfine_tools.deploy.backends import Backend
from dfine_tools.deploy.images import SourceError, read_image
from dfine_tools.deploy.pipeline import map_ahead
from dfine_tools.deploy.predict import Predictor, network_input
from dfine_tools.deploy.sources import UNREADABLE, ImageSource, find_source
from dfine_tools.published import PUBLISHED_COST

log = logging.getLogger(__name__)
AUTHORS_RUNS = 1000  # as many to warm up, and as many images that count
_LEAST_RUNS, _MOST_RUNS = 5, 1000


@dataclass(frozen=True)
class Cost:
    """Counts of a model for one image, in the published convention: see `dfine_tools.analysis.profile`."""

    model: str
    image_hw: tuple[int, int]
    parameters: int  # as deployed: norms folded, what only training needs gone
    training_parameters: int
    macs: int  # multiply-adds of convolutions and linear layers
    flops: int  # twice those, and norms, activations, softmaxes, biases
    published: tuple[int, int] | None  # millions of parameters and GFLOPs of the authors' table, if it is that model


@dataclass(frozen=True)
class CallTimes:
    """Milliseconds of one call over many of them."""

    median: float
    low: float  # quartiles
    high: float
    runs: int


def cost(config: ModelConfig, name: str, image_hw: tuple[int, int] = (640, 640)) -> Cost:
    """Parameters, multiply-adds and FLOPs of a model in deploy mode for one image, in the published convention."""
    total = profile(config, image_hw).total
    size = next((s for s in PUBLISHED_COST if SIZES[s] == config and tuple(image_hw) == (640, 640)), None)
    return Cost(
        name, tuple(image_hw), total.deployed_parameters, total.parameters, total.macs, total.flops,
        None if size is None else PUBLISHED_COST[size],
    )  # fmt: skip


def latency(backend: Backend, files: Sequence[Path], batch: int = 1, *, seconds: float = 3.0) -> dict[str, Any]:
    """The fields of `Latency` that can be measured on a backend.

    Args:
        files: images, taken in turn.
        batch: images a call.
        seconds: see `bench`.
    """
    turns = itertools.cycle(files)

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        images = [read_image(next(turns)) for _ in range(batch)]
        sizes_wh = torch.tensor([[image.shape[2], image.shape[1]] for image in images])
        return torch.stack([network_input(image, backend.image_hw) for image in images]), sizes_wh

    images, sizes_wh = read()
    pixels, sizes = (images.contiguous().float() / 255).numpy(), sizes_wh.numpy()
    model_only = repeated(lambda: backend.answer(pixels, sizes), seconds)
    end_to_end = repeated(lambda: backend.detect(*read()), seconds)
    count = batch * min(_MOST_RUNS, max(_LEAST_RUNS, math.ceil(1000 * seconds / model_only.median)))
    source = ImageSource(tuple(itertools.islice(itertools.cycle(files), count)))
    start = time.perf_counter()
    for _ in Predictor(backend).stream(source, batch_size=batch):
        pass
    return dict(
        backend=backend.name, precision="fp32" if backend.name == "torch" else backend.about.get("precision", ""),
        device=backend.device, image_hw=backend.image_hw, batch=batch, model_only=model_only, end_to_end=end_to_end,
        images_per_second=1000 * batch / model_only.median,
        end_to_end_per_second=count / (time.perf_counter() - start),
    )  # fmt: skip


def repeated(call: Callable[[], Any], seconds: float) -> CallTimes:
    """Time a call again and again; a third of `seconds` before that warms up."""
    _times(call, seconds / 3)
    times = _times(call, seconds)
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return CallTimes(median, low, high, len(times))


def authors_latency(backend: Backend, folder: str | Path, runs: int = AUTHORS_RUNS) -> float:
    """Mean milliseconds of a batch of one over a folder of images, as the authors time TensorRT engines.

    So many runs to warm up, then so many images of the folder, each prepared before the clock starts. What the clock
    sees here besides is the way of pixels and answers to and from the device. Meant for an engine on a GPU and COCO's
    val2017; not run on one yet.

    Raises:
        SourceError: no images in the folder that can be read.
    """
    files = itertools.islice(itertools.cycle(image_files(folder)[0]), runs)
    images = (read_image(file) for file in files)
    times = []
    for number, image in enumerate(images):
        pixels = (network_input(image, backend.image_hw)[None].contiguous().float() / 255).numpy()
        sizes = np.array([[image.shape[2], image.shape[1]]], np.int64)
        for _ in range(runs if number == 0 else 0):
            backend.answer(pixels, sizes)
        start = time.perf_counter()
        backend.answer(pixels, sizes)  # its answers are in the host's memory, so the device has ended
        times.append(1000 * (time.perf_counter() - start))
    return statistics.fmean(times)


class PeakMemory:
    """Growth of memory from here on; which memory that is depends on what runs, and where.

    Args:
        device: as it is asked for; `auto` may become a GPU.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.gpus_before: list[int] = []  # bytes, by device
        if device != "cpu" and torch.cuda.is_available():
            torch.cuda.init()  # without it there are no statistics to reset
            for number in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(number)
                self.gpus_before.append(torch.cuda.memory_allocated(number))
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self.before = _status("VmRSS")
        except OSError:  # no Linux, or not allowed
            self.before = None

    def megabytes(self, backend: str = "torch", device: str = "cpu") -> tuple[float | None, str]:
        """The largest so far, and what it counts; None where nobody tells.

        Args:
            backend, device: as the `Backend` that ran says.
        """
        if is_gpu(device):
            if backend != "torch" or not self.gpus_before:  # others allocate past torch, which does not see it
                return None, ""
            number = torch.device(device).index or 0
            grown = torch.cuda.max_memory_allocated(number) - self.gpus_before[number]
            return grown / 2**20, "allocated by torch on the GPU"
        if self.before is None:
            return None, ""
        return max(0, _status("VmHWM") - self.before) / 1024, "growth of the process"


def is_gpu(device: str) -> bool:
    """Whether a backend's device is no CPU: `cuda:0`, `GPU`, `mps`."""
    return device.lower().partition(":")[0] != "cpu"


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


def image_files(images: Any = None) -> tuple[list[Path], Ledger]:
    """The readable files of a source of images as `find_source` takes it, and what was left out of it.

    Every file is read once before; more than 1,000 are not needed, and not read.

    Args:
        images: None: two photographs that scikit-learn brings.

    Raises:
        SourceError: no images, none that can be read, or images that are no files.
    """
    if images is None:
        from sklearn import datasets

        images = Path(datasets.__file__).parent / "images"
    found = find_source(images)
    if not isinstance(found, ImageSource) or not all(isinstance(item, str | Path) for item in found.items):
        raise SourceError(f"{images}: speed is measured on image files; give a folder of them.")
    ledger, files = found.ledger(), []
    for file, problem in zip(found.items, map_ahead(_problem, found.items[:_MOST_RUNS], 4, 8), strict=False):
        if problem is None:
            files.append(Path(file))
            ledger.taken(found.kind)
        else:
            ledger.left_out(found.kind, UNREADABLE, problem)
            log.warning("left out %s", problem)
    ledger.left_out(found.kind, "not needed", images, max(0, len(found) - _MOST_RUNS))
    ledger.check()
    if not files:
        raise SourceError(f"{images}: no image that can be read: {ledger.summary(found.kind)}.")
    return files, ledger


def _problem(file: Path) -> str | None:
    try:
        read_image(file)
    except SourceError as error:
        return str(error)
    return None
