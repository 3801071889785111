"""How fast a run goes, what it waits for, how long it still takes."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch


class Meter:
    """Time, waiting time and images since the last reading."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._begin()

    def _begin(self) -> None:
        self.since, self.waited, self.images, self.steps = time.perf_counter(), 0.0, 0, 0

    def add(self, images: int, waited: float) -> None:
        """A step on that many images, which were waited for so many seconds."""
        self.images, self.waited, self.steps = self.images + images, self.waited + waited, self.steps + 1

    def read(self) -> dict[str, Any]:
        """Seconds, s/step, images/s, share of waiting, peak memory in MiB; starts anew."""
        elapsed = time.perf_counter() - self.since
        reading = {
            "seconds": elapsed, "seconds_per_step": elapsed / max(1, self.steps),
            "images_per_second": self.images / elapsed, "data_wait_share": self.waited / elapsed,
            "memory_mb": memory_mb(self.device),
        }  # fmt: skip
        self._begin()
        return reading


def memory_mb(device: torch.device) -> float:
    """Peak memory so far, MiB: what tensors took on the GPU, or this process (without its workers) on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 1024  # bytes on a Mac, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
