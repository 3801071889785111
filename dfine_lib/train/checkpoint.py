"""The state of a run on disk: written whole or not at all, read without running code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from dfine_lib.errors import DfineError
from dfine_lib.files import whole_file


class CheckpointError(DfineError):
    """A state file that is damaged or belongs to another run."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values one after the other; if that fails, OSError, and the old file is unharmed."""
    with whole_file(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch closes its archive after a failed write, and fails again: raise the first
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def load_state(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU; CheckpointError if it is damaged or holds more than tensors and plain values."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged state of a run ({error})", "start_again") from error
