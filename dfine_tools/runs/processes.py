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
from typing import TYPE_CHECKING

from dfine_lib.errors import DfineError

if TYPE_CHECKING:
    import torch.distributed as dist

    from dfine_lib.distributed import Ranks

log = logging.getLogger(__name__)
STARTED_BY = "DFINE_STARTED_BY"  # variable: the process that a run ends with
USERS_ERROR = 2  # exit code of the command for what its caller can put right; it has said what
PEERS_ENDING = 10.0  # seconds in which torchrun ends a process once another one has failed
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
    """`dfine_lib.distributed.process_group`, with each error raised in one process: the first that meets one.

    Raises:
        DfineError: the processes do not find each other at MASTER_ADDR and MASTER_PORT, or have too few GPUs.
        ProcessLost: another process has ended, and torchrun did not end this one.
    """
    import torch.distributed as dist

    from dfine_lib.distributed import process_group, torchrun_store

    stores: list[dist.Store] = []  # one, once the processes have met

    def meet() -> dist.Store:
        try:
            stores.append(torchrun_store())
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            address = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']} ({str(error).splitlines()[0]})"
            raise DfineError(f"the processes of this run cannot meet at {address}", "free_port") from error
        return stores[0]

    try:
        with process_group(device, meet) as ranks:
            if ranks.size > 1 and device in ("auto", "cuda"):
                check_gpus(ranks.local_rank + 1, needed=device == "cuda")
            yield ranks
    except Exception as error:
        reported = bool(stores) and _errors_reported(stores[0]) > 1
        if reported or (stores and _is_lost_peer(error)):
            time.sleep(PEERS_ENDING)
            raise ProcessLost(reported) from error
        raise


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
