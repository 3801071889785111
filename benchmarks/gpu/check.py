"""A check, its rows, and a process of its own for each check."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from dfine_lib.device import pick_device
from dfine_lib.files import json_safe
from dfine_tools.runs.processes import STARTED_BY, end_with_starter

# A forked process needs no second import of torch. CUDA can be used in it as long as its parent has never used CUDA.
PROCESSES = multiprocessing.get_context("fork")
STOPS = (signal.SIGINT, signal.SIGTERM)


class Skipped(Exception):
    """This machine cannot run the check; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result of a check: a line of the table."""

    what: str  # "step time"
    case: str = ""  # "n, 640 px, batch 8, bf16"
    value: float | None = None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    text: str = ""  # what the table shows behind the value
    ended: str = ""  # why there is no value: "skipped", "error" or "timeout"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """`pass`, `fail`, `measured` (there is no limit), `skipped`, `error` or `timeout`."""
        if self.ended:
            return self.ended
        if self.at_most is None and self.at_least is None:
            return "measured"
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return "pass" if self.value is not None and low <= self.value <= high else "fail"  # NaN fails

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return json_safe(asdict(self) | {"status": self.status})


@dataclass(frozen=True)
class Setting:
    """Where checks run, and how large their cases are."""

    dry: bool
    folder: Path  # files of the checks; removed at the end of the last check
    authors: Path | None = None  # a checkout of the authors' code

    @property
    def device(self) -> torch.device:
        """The device that is checked."""
        return pick_device("cpu" if self.dry else "cuda")

    def limit(self, value: float) -> float | None:
        """A limit of time or memory: none on the CPU, where neither says anything about a GPU."""
        return None if self.dry else value

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if not self.dry:
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Check:
    """A named question."""

    name: str
    work: Callable[[Setting], Iterator[Row]]
    seconds: float = 60.0  # after which it is ended


def run_check(check: Check, setting: Setting, seconds: float) -> list[Row]:
    """The rows of a check, run in a process of its own. What ended the check early is its last row."""
    here, there = PROCESSES.Pipe(duplex=False)
    sys.stdout.flush()
    process = PROCESSES.Process(target=_serve, args=(check, setting, there))
    rows: list[Row] = []
    end = time.monotonic() + seconds
    try:
        with _held_signals():
            process.start()
        there.close()
        while here.poll(max(0.0, end - time.monotonic())):
            rows.append(here.recv())
    except EOFError:
        process.join(10)
        if process.exitcode or not rows:
            words = f"its process ended with exit code {process.exitcode} after {len(rows)} rows"
            rows.append(Row(what=check.name, ended="error", text=words))
    else:
        rows.append(Row(what=check.name, ended="timeout", text=f"ended after {seconds:.0f} s"))
    finally:
        here.close()
        if process.pid:
            _end(process)
    return rows


@contextmanager
def _held_signals() -> Iterator[None]:
    """Signals that stop the pack wait until the block ends: Python drops an exception raised in the hooks of a fork."""
    arrived: list[int] = []
    handlers = {number: signal.signal(number, lambda sent, _: arrived.append(sent)) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


def _end(process: multiprocessing.Process) -> None:
    """Kill the process of a check and every process that it has started."""
    for kill in (lambda: os.killpg(process.pid, signal.SIGKILL), process.kill):
        try:
            kill()
        except ProcessLookupError:  # all have ended; or the process has no group of its own yet
            continue
    process.join()


def _serve(check: Check, setting: Setting, there: Connection) -> None:
    os.setsid()  # a group of its own, and no Ctrl-C from the terminal
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    os.environ[STARTED_BY] = str(os.getppid())
    end_with_starter()
    setting.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(setting.folder / f"{check.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        for row in check.work(setting):
            there.send(row)
    except Skipped as reason:
        there.send(Row(what=check.name, ended="skipped", text=str(reason)))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        there.send(Row(what=check.name, ended="error", text=f"{type(error).__name__}: {_first_line(error)}"))
    sys.stdout.flush()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]
