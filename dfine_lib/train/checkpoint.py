"""The state of a run on disk: written whole or not at all, read without running code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from dfine_lib.errors import DfineError
from dfine_lib.files import write_atomically


class CheckpointError(DfineError):
    """A state file that is damaged or belongs to another run."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; a kill or a full disk leaves the old file as it was.

    Raises:
        OSError: the file could not be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU.

    Raises:
        CheckpointError: damaged, or holding more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged state of a run ({error}). Start again in another --out; weights that the run had saved "
            "can be given with --weights."
        ) from error
