"""What the caller of a training may add to it: a lock, notes on the machine, curves, samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfine_lib.data.loader import EvalLoader


class RunCallback:
    """Called by `train` at the points where a caller may want something; this one does nothing.

    Of several ranks only rank zero calls it. `dfine train` hands in `dfine_tools.runs.recorder.RunRecorder`.
    """

    def open(self, folder: Path) -> None:
        """The run folder is there; nothing in it was read or written yet. An error raised here ends the run."""

    def describe(self, device: torch.device) -> dict[str, Any]:
        """What `run.json` and the session rows say of machine and code, besides device and versions."""
        return {}

    def begin(self, folder: Path, first_step: int) -> None:
        """The next step is `first_step`: 0, or where a resumed run continues."""

    def after_row(self, row: dict[str, Any]) -> None:
        """The row was added to `metrics.jsonl`."""

    def after_evaluation(self, model: nn.Module, loader: EvalLoader, row: dict[str, Any]) -> None:
        """The model with the EMA weights was scored on the loader's images; the row has `step` and `epoch`."""

    def end(self) -> None:
        """The run is finished, or was stopped by an error."""
