"""Several processes that train as one: rank and size of this one, and collectives.

One process is the ordinary case: then nothing here does anything. Several have joined a process group of
`torch.distributed`, as `dfine_tools.runs.processes.joined_processes` does for those that torchrun started.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; the only one, unless several have joined."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine

    @property
    def is_zero(self) -> bool:
        """Whether this is rank zero, which writes the run's files and its messages."""
        return self.rank == 0

    def on_rank_zero(self, call: Callable[[], T]) -> T:
        """Call a function on rank zero; every rank waits for its result, and returns it."""
        if self.size == 1:
            return call()
        result = [call() if self.is_zero else None]
        dist.broadcast_object_list(result, src=0)
        return result[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors by their mean over ranks, in one all-reduce."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The module to call in training so that gradients become means over ranks; for one rank the model itself."""
        if self.size == 1:
            return model
        makes_denoising = getattr(getattr(model, "config", None), "num_denoising", 1) > 0
        newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        return DistributedDataParallel(
            model, gradient_as_bucket_view=True,
            find_unused_parameters=not makes_denoising,  # the denoising embedding exists in any case
            **{"forward_sync_buffers" if newer else "broadcast_buffers": False},
        )  # fmt: skip


ALONE = Ranks()


def current_ranks() -> Ranks:
    """This process in the process group that it has joined."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that each process keeps by itself: of batch norms that are not synchronised."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
