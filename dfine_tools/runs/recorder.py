"""What `dfine train` adds to a run: a lock on its folder, notes on the machine, curves, detections to look at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dfine_lib.data.loader import EvalLoader
from dfine_lib.files import json_safe, write_atomically
from dfine_lib.train.callback import RunCallback
from dfine_tools.runs.folder_lock import FolderLock
from dfine_tools.runs.machine import describe_machine
from dfine_tools.runs.samples import sample_detections

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_CURVES = ("loss", "grad_norm", "lr", "images_per_second", "data_wait_share", "memory_mb")  # of a training row


class RunRecorder(RunCallback):
    """Locks the folder, writes `tensorboard/` and `samples.json`, and describes the machine for `run.json`.

    `samples.json` holds detections of the EMA weights on a few validation images at the latest evaluation, with the
    ground truth: `step`, `epoch`, `category_names`, and `images` as `sample_detections` returns them.
    """

    def __init__(self) -> None:
        self._curves: SummaryWriter | None = None
        self._samples = Path()
        self._lock: FolderLock | None = None

    def open(self, folder: Path) -> None:
        """Keep the folder for this process; DfineError where another one holds it."""
        self._lock = FolderLock(folder)
        self._lock.acquire()

    def describe(self, device: torch.device) -> dict[str, Any]:
        """See `describe_machine`."""
        return describe_machine(device)

    def begin(self, folder: Path, first_step: int) -> None:
        """Open the curves; their points from `first_step` on are dropped."""
        from torch.utils.tensorboard import SummaryWriter  # here: large

        self._curves = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        self._samples = folder / "samples.json"
        if first_step == 0:  # what a run that saved no state has left
            self._samples.unlink(missing_ok=True)

    def after_row(self, row: dict[str, Any]) -> None:
        """Add the row's values to the curves."""
        for name, value in _points(row):
            self._curves.add_scalar(name, value, row["step"])

    def after_evaluation(self, model: nn.Module, loader: EvalLoader, row: dict[str, Any]) -> None:
        """Write `samples.json` again, whole or not at all."""
        images = sample_detections(model, loader, loader.device)
        content = row | {"category_names": loader.index.category_names, "images": images}
        write_atomically(self._samples, (json.dumps(json_safe(content), indent=1) + "\n").encode())

    def end(self) -> None:
        """Close the curves, and let another process write into the folder."""
        if self._curves is not None:
            self._curves.close()
        if self._lock is not None:
            self._lock.release()


def _points(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What the curves show of a row."""
    if row["kind"] == "train":
        yield from ((f"train/{name}", row[name]) for name in _CURVES)
    elif row["kind"] == "eval":
        aps = {f"eval/ap_{name}": row[name]["ap"] for name in ("ema", "raw")}
        yield from ((name, ap) for name, ap in aps.items() if ap is not None and math.isfinite(ap))
