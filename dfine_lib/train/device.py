"""Where a model runs."""

from __future__ import annotations

import torch

from dfine_lib.train.distributed import ALONE, Ranks


def pick_device(name: str = "auto", ranks: Ranks = ALONE) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        ranks: of several processes on a machine with GPUs, each takes its own.

    Raises:
        ValueError: no such device here, or not one for every process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.size > 1 and name != "cpu":
        if name != "cuda":
            raise ValueError(f"device {name!r} is one device: several processes train on cpu or on cuda")
        enough_gpus(ranks.local_rank + 1)
        name = f"cuda:{ranks.local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not to be had here ({str(error).splitlines()[0]}); try cpu") from error
    return device


def enough_gpus(processes: int) -> None:
    """A GPU for each process of this machine.

    Raises:
        ValueError: there are fewer.
    """
    there = torch.cuda.device_count()
    if processes > there:
        raise ValueError(
            f"{processes} processes want a GPU each, and this machine has {there or 'none'}; "
            + (f"give --nproc {there}" if there else "give --device cpu")
            + (", or --device cpu" if there else "")
        )
