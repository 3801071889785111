"""Where a model runs."""

from __future__ import annotations

import torch


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not to be had here ({str(error).splitlines()[0]}); try cpu") from error
    return device
