"""Several processes that train as one, started by torchrun: rank and size of this one, collectives, how they end.

One process is the ordinary case: then nothing here does anything.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dfine_lib.errors import DfineError

T = TypeVar("T")
TIMEOUT = timedelta(hours=1)  # of a collective: rank zero decodes every image before the first step
STARTING = timedelta(minutes=10)  # for all processes to start
ENDING = 10.0  # seconds in which torchrun ends a process once another one has failed


class ProcessLost(RuntimeError):
    """Another process of this run has ended: killed, out of memory, or, if `reported`, with an error of its own."""

    def __init__(self, reported: bool) -> None:
        super().__init__("another process of this run has ended" + " (killed, or out of memory?)" * (not reported))
        self.reported = reported


class RendezvousError(DfineError):
    """The processes of a run did not find each other: the port is taken, or nobody listens at the address."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; the only one, unless torchrun started several."""

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


@contextlib.contextmanager
def process_group(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that torchrun started with this one, for as long as the block runs.

    Where there is a group already, or torchrun started one process only or not at all, nothing is joined. An error is
    raised in the first process that meets one; the others wait for torchrun to end them.

    Args:
        device: as for `pick_device`; decides how tensors travel (NCCL between GPUs, gloo otherwise).

    Raises:
        RendezvousError: the processes do not find each other at MASTER_ADDR and MASTER_PORT.
        ProcessLost: another process has ended, and torchrun did not end this one.
    """
    if current_ranks().size > 1 or not (dist.is_available() and int(os.environ.get("WORLD_SIZE", 1)) > 1):
        yield current_ranks()
        return
    with_gpus = not device.startswith("cpu") and torch.cuda.is_available()
    if with_gpus and int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # With GPUs two backends: plain values travel by gloo.
    backend = f"cpu:gloo,cuda:{'nccl' if dist.is_nccl_available() else 'gloo'}" if with_gpus else "gloo"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=STARTING))
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        address = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']} ({str(error).splitlines()[0]})"
        raise RendezvousError(f"the processes of this run cannot meet at {address}", "free_port") from error
    # torchrun keeps one store over restarts, with the addresses of processes that are gone.
    store = dist.PrefixStore(f"dfine_lib/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield current_ranks()
    except Exception as error:
        reported = _errors_reported(store) > 1
        if reported or _is_lost_peer(error):
            time.sleep(ENDING)
            raise ProcessLost(reported) from error
        raise
    dist.destroy_process_group()


def was_restarted() -> bool:
    """Whether torchrun started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that each process keeps by itself: of batch norms that are not synchronised."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]


def _errors_reported(store: dist.Store) -> int:
    """Count this process among those that met an error: how many they are now."""
    try:
        return store.add("errors", 1)
    except RuntimeError:  # the store went with torchrun, or with rank zero
        return 1


def _is_lost_peer(error: Exception) -> bool:
    words = ("gloo", "connection closed", "connection reset", "connection was closed")
    known = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
    return isinstance(error, RuntimeError) and known
