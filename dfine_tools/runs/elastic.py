"""Start a command in several processes that work as one, with torchrun's own engine, and see it to its end."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence

from dfine_lib.errors import DfineError

log = logging.getLogger(__name__)
USERS_ERROR = 2  # exit code of the command for what its caller can put right: told already, and not mended by a restart
SHUTDOWN = 15  # seconds that processes have to end by themselves; less than `launch.PATIENCE`, or they outlive us


class ProcessesFailed(RuntimeError):
    """Processes that were started together did not all come to their end; the message names them."""


class ToldAlready(RuntimeError):
    """A process ended with an error that it told its caller; `exit_code` is its own."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"a process ended with exit code {exit_code}, and said why")
        self.exit_code = exit_code


def run_in_processes(command: Sequence[str], processes: int, *, max_restarts: int = 0) -> None:
    """Run a command in several processes of this machine, joined by `dfine_lib.distributed.joined`.

    Each gets torchrun's environment (`RANK`, `WORLD_SIZE`, …), and a session of its own; all end when one fails, when
    this process is interrupted or ended, and by themselves when it is killed. Their words go where those of this
    process go.

    Args:
        command: the program and its arguments.
        processes: how many; on a CPU each gets its share of the cores, unless OMP_NUM_THREADS says otherwise.
        max_restarts: how often all are started anew after a failure that is not the caller's to mend. A run then goes
            on from its last state: `--resume` is added to the command.

    Raises:
        ValueError: fewer than one process, or a negative number of restarts.
        ToldAlready: a process ended with exit code 2.
        ProcessesFailed: a process failed, and there is no restart left.
        KeyboardInterrupt: this process was interrupted, or asked to end.
    """
    if processes < 1 or max_restarts < 0:
        raise DfineError(f"at least 1 process and 0 restarts are needed, got {processes} and {max_restarts}")
    for restart in range(max_restarts + 1):
        codes = _run_once([*command, "--resume"] if restart else list(command), processes)
        if not codes:
            return
        if USERS_ERROR in codes.values():
            raise ToldAlready(USERS_ERROR)
        words = ", ".join(f"process {rank} {_how_it_ended(code)}" for rank, code in sorted(codes.items()))
        if restart == max_restarts:
            raise ProcessesFailed(f"of {processes} processes, {words}")
        log.warning("%s; going on from the last saved state (restart %d of %d)", words, restart + 1, max_restarts)
        time.sleep(1.0)


def _run_once(command: list[str], processes: int) -> dict[int, int]:
    """Exit codes of the processes that failed, by rank; none where all went well."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):  # what failed is told by us
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=f"dfine-{os.getpid()}", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
    )  # fmt: skip
    if hasattr(config, "shutdown_timeout"):
        config.shutdown_timeout = SHUTDOWN
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except SignalException as error:
        raise KeyboardInterrupt from error
    finally:  # torch sets its own
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return {}


def _how_it_ended(code: int) -> str:
    try:
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    except ValueError:
        return f"ended with {code}"
