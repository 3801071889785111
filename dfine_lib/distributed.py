"""Several processes that work as one, started by torchrun: who this one is, what all share, how they end together.

One process is the ordinary case: then nothing here does anything.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import threading
import time
import uuid
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
PATIENCE = timedelta(hours=1)  # for a process that is busy: rank 0 decodes every picture before the first step
JOINING = timedelta(minutes=10)  # for all processes to start
_REPORTS = "dfine_lib/reports"  # under this key processes count who has reported an error
QUIET = 10.0  # seconds in which a process that has nothing to tell waits to be ended


class ProcessLost(RuntimeError):
    """Another process of this run ended without a word: killed, or out of memory. A training's state is on disk."""


class MeetingError(DfineError):
    """The processes of a run did not find each other: the address is taken, or nobody answers there."""


class ToldElsewhere(RuntimeError):
    """The run ends because of an error that another process tells: this one has nothing to add."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; the only one, unless torchrun says otherwise."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine

    @property
    def first(self) -> bool:
        """Does this process write the run's files, and speak?"""
        return self.rank == 0

    def on_first(self, call: Callable[[], T]) -> T:
        """Call it on rank 0; what it returns is returned on all ranks, which wait for it.

        An error of rank 0 ends the other processes with `ToldElsewhere`.
        """
        if self.size == 1:
            return call()
        answer = [call() if self.first else None]
        dist.broadcast_object_list(answer, src=0)
        return answer[0]

    def gather(self, value: T) -> list[T]:
        """That value of every rank, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors by their mean over ranks, in one exchange."""
        if self.size == 1 or not tensors:
            return
        together = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(together)
        together /= self.size
        for tensor, mean in zip(tensors, together.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def wrapped(self, model: nn.Module) -> nn.Module:
        """What to call in training so that gradients become means over ranks; the model itself where it is alone."""
        if self.size == 1:
            return model
        makes_denoising = getattr(getattr(model, "config", None), "num_denoising", 1) > 0
        newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        return DistributedDataParallel(
            model, gradient_as_bucket_view=True,
            find_unused_parameters=not makes_denoising,  # its embedding exists in any case
            **{"forward_sync_buffers" if newer else "broadcast_buffers": False},
        )  # fmt: skip


ALONE = Ranks()


def current_ranks() -> Ranks:
    """This process in the group that it is in."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that torchrun started beside this one, for as long as the block runs.

    An error is told once: the first process that meets one raises it, the others `ToldElsewhere`, after a moment in
    which torchrun ends them. A process whose torchrun is killed ends too. Where there is a group already, or torchrun
    started one process only or not at all, nothing is joined.

    Args:
        device: as for `pick_device`; decides how tensors travel (NCCL between GPUs, gloo otherwise).

    Raises:
        MeetingError: there is no meeting the others at MASTER_ADDR and MASTER_PORT.
        ProcessLost: another process ended without a word.
        ToldElsewhere: see above.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())
    if current_ranks().size > 1 or not _started_by_torchrun():
        yield current_ranks()
        return
    with_gpus = not device.startswith("cpu") and torch.cuda.is_available()
    if with_gpus and int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = _own_store()
    # With GPUs both: plain values travel by gloo.
    backend = f"cpu:gloo,cuda:{'nccl' if dist.is_nccl_available() else 'gloo'}" if with_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    ranks = current_ranks()
    try:
        yield ranks
    except BaseException as error:
        reports = _reports(store)
        if reports > 1:
            if not isinstance(error, KeyboardInterrupt):  # then all are ended already
                with contextlib.suppress(KeyboardInterrupt):
                    time.sleep(QUIET)
            raise ToldElsewhere("another process of this run tells why it ends") from error
        if _is_lost_peer(error):
            raise ProcessLost(
                "another process of this run has ended without a word (killed, or out of memory?)"
            ) from error
        raise
    dist.destroy_process_group()


def _started_by_torchrun() -> bool:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return dist.is_available() and all(name in os.environ for name in names) and int(os.environ["WORLD_SIZE"]) > 1


def _own_store() -> tuple[dist.Store, int, int]:
    """What the processes of this start share, this one's rank, and how many they are.

    torchrun keeps one store over restarts, with the addresses of processes that are gone. So the processes of a start
    agree on a name for it: rank 0 makes one up and answers who calls it by that name; who gets no answer has read the
    name of an earlier start, and reads again.
    """
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=JOINING))
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        place = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']}"
        raise MeetingError(
            f"the processes of this run cannot meet at {place} ({str(error).splitlines()[0]}). Choose a free port on a "
            "machine that all reach: MASTER_PORT, or torchrun's --master-port; on one machine --standalone finds one"
        ) from error
    if rank == 0:
        name = uuid.uuid4().hex
        store.set("dfine_lib/start", name)
        for other in range(1, size):
            store.set(f"{name}/answer/{other}", store.get(f"{name}/call/{other}"))
    else:
        call, answered, deadline = uuid.uuid4().hex, False, time.monotonic() + JOINING.total_seconds()
        while not answered:
            if time.monotonic() > deadline:
                raise ProcessLost(f"process 0 of this run did not start within {JOINING}")
            name = store.get("dfine_lib/start").decode()
            store.set(f"{name}/call/{rank}", call)
            time.sleep(0.1)
            answer = f"{name}/answer/{rank}"
            answered = store.check([answer]) and store.get(answer).decode() == call
    return dist.PrefixStore(name, store), rank, size


def was_restarted() -> bool:
    """Has torchrun started this process anew after a failure?"""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def _reports(store: dist.Store) -> int:
    """Count this process among those that report an error: how many they are now; 1 where nobody can be asked."""
    try:
        return store.add(_REPORTS, 1)
    except RuntimeError:  # the store went with torchrun
        return 1


def _is_lost_peer(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    words = ("gloo", "connection closed", "connection reset", "connection was closed")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def end_with_parent(parent: int) -> None:
    """End, as by SIGTERM, when the process that started this one is gone: nobody would watch over a training any more.

    Args:
        parent: its id.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        if os.getpgrp() == os.getpid():  # as torchrun starts it: its workers are in its group
            os.killpg(os.getpid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    if all(thread.name != "dfine_lib.parent" for thread in threading.enumerate()):
        threading.Thread(target=watch, name="dfine_lib.parent", daemon=True).start()


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that each process keeps by itself: of batch norms that are not synchronised."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
