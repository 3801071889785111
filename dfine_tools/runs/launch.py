"""Start a training in its own process and watch it: what a notebook does, so that its kernel never holds the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm  # text, not a widget: `make run` shows it in the terminal

from dfine_tools.runs.processes import STARTED_BY

PATIENCE = 30.0  # seconds in which an interrupted run may end by itself


class TrainingFailed(RuntimeError):
    """The training process ended with an error; the message holds its last lines."""


def training_command(
    recipe: str,
    data: str | Path,
    out: str | Path,
    *,
    epochs: int | None = None,
    image_size: int | str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    weights: str | Path | None = None,
    class_rows: Mapping[str, str] | None = None,
    resume: bool = True,
    settings: Mapping[str, object] | None = None,
    nproc: int = 1,
    max_restarts: int = 0,
) -> list[str]:
    """The `dfine train` command of these choices, as a list of words; None leaves a choice to the recipe.

    With `nproc` above 1 the command starts as many processes that train as one (`dfine_tools.runs.processes`).
    """
    words = [sys.executable, "-m", "dfine_tools.cli", "train", "--recipe", recipe]
    for flag, value in (
        ("--data", data), ("--out", out), ("--seed", seed), ("--device", device), ("--epochs", epochs),
        ("--image-size", image_size), ("--batch-size", batch_size), ("--weights", weights),
    ):  # fmt: skip
        if value not in (None, ""):
            words += [flag, str(value)]
    if nproc != 1 or max_restarts:
        words += ["--nproc", str(nproc), "--max-restarts", str(max_restarts)]
    for name, source in (class_rows or {}).items():
        words += ["--row", f"{name}={source}"]
    if not resume:
        words.append("--no-resume")
    for name, value in (settings or {}).items():
        words += ["--set", f"{name}={value}"]
    return words


def start_training(command: Sequence[str], out: str | Path) -> subprocess.Popen:
    """Start a training command in its own process group and return at once; its output goes to `<out>/train.log`.

    A `dfine train` that was started like this ends with this process, however this process ends; its last whole epoch
    is on disk then.

    Args:
        command: from `training_command`.
        out: the run folder, made where it is missing.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "train.log", "ab") as log:
        return subprocess.Popen(
            list(command), stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", STARTED_BY: str(os.getpid())},
        )  # fmt: skip


def launch_training(
    command: Sequence[str], out: str | Path, *, show_progress: bool = True, poll_seconds: float = 1.0
) -> None:
    """Run a training command in its own process group until it ends; its output goes to `<out>/train.log`.

    An interrupt of this process (Ctrl-C, the notebook's stop button) is passed on; the run keeps its last state, and
    the same command resumes from there. If this process is killed, the run ends too, a second later.

    Args:
        command: from `training_command`.
        out: the run folder; progress is read from its `metrics.jsonl`.
        show_progress: a progress bar with loss, AP and the share of time spent waiting for data.
        poll_seconds: time between looks.

    Raises:
        TrainingFailed: the process ended with an error.
        KeyboardInterrupt: after the run was stopped.
    """
    out = Path(out)
    log_file = out / "train.log"
    start = log_file.stat().st_size if log_file.exists() else 0
    process = start_training(command, out)
    try:
        with tqdm(total=1.0, desc="training", disable=not show_progress, bar_format=_BAR) as bar:
            rows = _NewRows(out / "metrics.jsonl")
            while process.poll() is None:
                time.sleep(poll_seconds)
                _show(bar, rows)
            _show(bar, rows)
    except BaseException:
        stop([process])
        raise
    if process.returncode:
        raise TrainingFailed(
            f"training ended with exit code {process.returncode}; {log_file} has all of its output, which ends with:\n"
            + "\n".join(last_lines(log_file, start))
        )


_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed}{postfix}"


class _NewRows:
    """Follows a growing `metrics.jsonl` without reading it again: the newest training row and the best AP so far."""

    def __init__(self, file: Path) -> None:
        self.file, self.place, self.identity = file, 0, 0
        self.train: dict[str, Any] | None = None
        self.best_ap: float | None = None

    def read(self) -> None:
        """Take in what was added."""
        try:
            content = open(self.file, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return
        with content:
            about = os.fstat(content.fileno())
            if about.st_ino != self.identity or about.st_size < self.place:
                self.identity, self.place = about.st_ino, 0  # a resumed run writes a file without what it does again
            content.seek(self.place)
            for line in content:
                if not line.endswith(b"\n"):
                    break
                self.place += len(line)
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a watcher ends no run
                    self._take(json.loads(line))

    def _take(self, row: dict[str, Any]) -> None:
        if row["kind"] == "train":
            self.train = row
        elif row["kind"] == "eval" and row["ema"]["ap"] is not None:  # no box to find, no AP
            self.best_ap = max(self.best_ap or 0.0, row["ema"]["ap"])


def _show(bar: tqdm, rows: _NewRows) -> None:
    rows.read()
    last = rows.train
    if last is None:
        return
    bar.n = min(1.0, (last["step"] + 1) / last["total"])
    bar.set_postfix_str(
        f"epoch {last['epoch'] + 1}, loss {last['loss'] or float('nan'):.2f}"
        + ("" if rows.best_ap is None else f", AP {rows.best_ap:.3f}")
        + f", {last['images_per_second']:.0f} images/s, waiting for data {last['data_wait_share']:.0%}"
    )


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ask the process groups of these to end, then make them, with all that is left in the groups.

    (Ranks that torchrun started have groups of their own, and end with it.)
    """
    for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        running = [process for process in processes if process.poll() is None]
        for process in running:
            _signal_group(process, number)
        end = time.monotonic() + patience
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    for process in processes:  # DataLoader workers that outlived their parent
        _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def last_lines(log_file: Path, start: int, most: int = 15) -> list[str]:
    """The last lines of a log that are not empty, of what was written after byte `start`."""
    try:
        content = log_file.read_bytes()[start:]
    except OSError:
        return []
    lines = content.decode(errors="replace").replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip()][-most:]
