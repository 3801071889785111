"""A command in several processes that train as one, by torchrun, and a run that ends with who started it.

torchrun (`torch.distributed.run`) starts the processes, gives each its rank, and ends all when one fails. It lacks
four things, which stand here: an exit code that is not restarted (what the user must put right fails again), the
exit code of the process that failed as its own, one report of an error rather than one of each process, and an end of
its processes when it is killed itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from dfine_lib.errors import DfineError

if TYPE_CHECKING:
    import torch.distributed as dist

    from dfine_lib.distributed import Ranks

log = logging.getLogger(__name__)
STARTED_BY = "DFINE_STARTED_BY"  # variable: the process that a run ends with
USERS_ERROR = 2  # exit code of the command for what its caller can put right; it has said what
PEERS_ENDING = 10.0  # seconds in which torchrun ends a process once another one has failed
TIMEOUT = timedelta(hours=1)  # of a collective: rank zero decodes every image before the first step
STARTING = timedelta(minutes=10)  # for all processes to start
ENDING = 15  # seconds that processes have to end by themselves; less than `launch.PATIENCE`, or they outlive us


class ProcessesFailed(RuntimeError):
    """Processes that were started together did not all come to their end; the message names them.

    Attributes:
        exit_codes: of those that failed, by rank; negative for a signal.
    """

    def __init__(self, exit_codes: dict[int, int], processes: int) -> None:
        words = ", ".join(f"process {rank} {_how_it_ended(code)}" for rank, code in sorted(exit_codes.items()))
        super().__init__(f"of {processes} processes, {words}")
        self.exit_codes = exit_codes


class ProcessLost(RuntimeError):
    """Another process of this run has ended: killed, out of memory, or, if `reported`, with an error of its own."""

    def __init__(self, reported: bool) -> None:
        super().__init__("another process of this run has ended" + " (killed, or out of memory?)" * (not reported))
        self.reported = reported


@contextlib.contextmanager
def joined_processes(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started with this one, for as long as the block runs.

    Where there is a group already, or torchrun started one process only or not at all, nothing is joined. An error is
    raised in one process, the first that meets one, which leaves the others waiting, for torchrun to end them.

    Args:
        device: as for `pick_device`; decides how tensors travel (NCCL between GPUs, gloo otherwise).

    Raises:
        DfineError: the processes do not find each other at MASTER_ADDR and MASTER_PORT, or have too few GPUs.
        ProcessLost: another process has ended, and torchrun did not end this one.
    """
    import torch.distributed as dist

    from dfine_lib.distributed import current_ranks

    if current_ranks().size > 1 or not (dist.is_available() and int(os.environ.get("WORLD_SIZE", 1)) > 1):
        yield current_ranks()
        return
    store: dist.Store | None = None
    try:
        backend = _backend(device)
        store = _meet()
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        ranks = current_ranks()
        if device in ("auto", "cuda"):
            check_gpus(ranks.local_rank + 1, needed=device == "cuda")
        yield ranks
        dist.destroy_process_group()
    except Exception as error:
        reported = store is not None and _errors_reported(store) > 1
        if reported or (store is not None and _is_lost_peer(error)):
            time.sleep(PEERS_ENDING)
            raise ProcessLost(reported) from error
        raise


def _backend(device: str) -> str:
    """How tensors travel; the GPU of this process, if it has one, becomes the current one."""
    import torch
    import torch.distributed as dist

    if device.startswith("cpu") or not torch.cuda.is_available():
        return "gloo"
    if int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return f"cpu:gloo,cuda:{'nccl' if dist.is_nccl_available() else 'gloo'}"  # plain values travel by gloo


def _meet() -> dist.Store:
    """Where the processes that torchrun started meet; waits until all are there."""
    import torch.distributed as dist

    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=STARTING))
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        address = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']} ({str(error).splitlines()[0]})"
        raise DfineError(f"the processes of this run cannot meet at {address}", "free_port") from error
    # torchrun keeps one store over restarts, with the addresses of processes that are gone.
    return dist.PrefixStore(f"dfine_lib/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def check_gpus(processes: int, needed: bool = True) -> None:
    """Refuse more processes on this machine than it has GPUs; `needed=False`: only where it has one at all.

    Raises:
        DfineError: there are fewer.
    """
    import torch

    there = torch.cuda.device_count()
    if processes > there and (needed or torch.cuda.is_available()):
        raise DfineError(
            f"{processes} processes need a GPU each, and this machine has {there or 'none'}",
            "fewer_processes" if there else "on_cpu",
            gpus=there,
        )


def was_restarted() -> bool:
    """Whether torchrun started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def run_in_processes(module: str, words: Sequence[str], processes: int, *, max_restarts: int = 0) -> None:
    """Run `python -m module words` in several processes of this machine, joined by `dfine_lib.distributed`.

    All end when one fails, when this process is interrupted or ended, and by themselves when it is killed.

    Args:
        module: what each process runs.
        words: its arguments.
        processes: how many; on a CPU each gets its part of the cores, unless OMP_NUM_THREADS says otherwise.
        max_restarts: how often all are started again after a failure that the user need not put right; a run then
            resumes from its last state, and `--resume` is added to the words.

    Raises:
        DfineError: fewer than one process, or a negative number of restarts.
        ProcessesFailed: a process failed, and there is no restart left.
        KeyboardInterrupt: this process was interrupted, or asked to end.
    """
    if processes < 1 or max_restarts < 0:
        raise DfineError(f"at least 1 process and 0 restarts are needed, got {processes} and {max_restarts}")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(ENDING))
    torchrun = ["--standalone", f"--nproc-per-node={processes}", "-m", "--", module, *words]
    for restart in range(max_restarts + 1):
        try:
            _torchrun([*torchrun, "--resume"] if restart else torchrun, processes)
            return
        except ProcessesFailed as failed:
            if USERS_ERROR in failed.exit_codes.values() or restart == max_restarts:
                raise
            log.warning("%s; resuming from the last saved state (restart %d of %d)", failed, restart + 1, max_restarts)
        time.sleep(1.0)


def _torchrun(words: list[str], processes: int) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher", "torch.distributed.run")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # `ProcessesFailed` says what failed
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run(get_args_parser().parse_args(words))
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        raise ProcessesFailed(codes, processes) from error
    except SignalException as error:
        raise KeyboardInterrupt from error
    finally:  # torchrun sets its own
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end_with_starter() -> None:
    """End, as by SIGTERM, when the notebook or torchrun that started this process is gone: nobody would watch it."""
    starter = os.environ.pop(STARTED_BY, "")  # not for the processes that this one starts
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if not (starter or by_torchrun):
        return
    parent = os.getppid() if by_torchrun else int(starter)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        if os.getpgrp() == os.getpid():  # as torchrun starts it: its DataLoader workers are in its group
            os.killpg(os.getpid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="dfine.parent", daemon=True).start()


def _how_it_ended(code: int) -> str:
    try:
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    except ValueError:
        return f"ended with {code}"


def _errors_reported(store: dist.Store) -> int:
    """Count this process among those that met an error: how many they are now."""
    try:
        return store.add("errors", 1)
    except RuntimeError:  # the store went with torchrun, or with rank zero
        return 1


def _is_lost_peer(error: Exception) -> bool:
    import torch.distributed as dist

    words = ("gloo", "connection closed", "connection reset", "connection was closed")
    known = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
    return isinstance(error, RuntimeError) and known
