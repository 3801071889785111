"""What a run leaves behind: everything that another person needs to repeat or resume it."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from dfine_lib import __version__
from dfine_lib.config import DataConfig, LossConfig, ModelConfig, Recipe, TrainConfig
from dfine_lib.device import describe_device
from dfine_lib.errors import DfineError
from dfine_lib.files import json_safe, write_atomically
from dfine_lib.train.checkpoint import save_state

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOCK_WAIT = 10.0  # seconds: DataLoader workers of a killed run hold its lock until they notice
_CURVES = ("loss", "grad_norm", "lr", "images_per_second", "data_wait_share", "memory_mb")  # of a training row


class RunFolder:
    """Names and formats of the files of one run.

    - `run.json`: recipe, data, seed, commit, command, versions, machine; written at the start.
    - `metrics.jsonl`: one JSON object a line, `kind` train, eval or skipped, appended while training; kind `session`
      says where and with which code the run was started or resumed.
    - `samples.json`: detections of the EMA weights on a few validation images at the latest evaluation, with the ground
      truth: `step`, `epoch`, `category_names`, and for each of `images` its `file`, `image_id`, `size_wh`, `truth`
      (`labels`, `boxes_xyxy`) and `detections` (the same, and `scores`). Boxes in pixels of the file.
    - `last.pt`: state to resume from. `best_stage1.pt`: state from which the second stage starts.
    - `model.safetensors`: EMA weights of the best evaluation. `metrics.json`: the result, written at the end.

    Of several ranks only rank zero writes; the others' folder (`writes=False`) only knows the names.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, path: str | Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self._curves: SummaryWriter | None = None
        self._lock = FileLock(self.path / ".lock")
        if writes:
            self._make()
        self.about = self.path / "run.json"
        self.rows = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.json"
        self.last = self.path / "last.pt"
        self.best_stage1 = self.path / "best_stage1.pt"
        self.model = self.path / "model.safetensors"
        self.result = self.path / "metrics.json"

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable.{os.getpid()}"
            probe.write_bytes(b"1")
            probe.unlink()
        except OSError as error:
            message = f"the output folder {self.path} cannot be written ({error.strerror})"
            raise OSError(error.errno, message) from error

    def lock(self) -> None:
        """Keep the folder for this process: two that write one run would spoil it.

        The lock goes with the process, however it ends. Files that a killed run had half written are removed.

        Raises:
            DfineError: another process holds the folder.
        """
        if not self.writes:
            return
        holder = self.path / ".holder"  # beside the lock, which is empty
        try:
            self._lock.acquire(timeout=LOCK_WAIT, poll_interval=0.2)
        except Timeout as error:
            process = holder.read_text().strip() if holder.exists() else "unknown"
            raise DfineError(f"{self.path}: process {process} is training into this folder", "folder_in_use") from error
        holder.write_text(str(os.getpid()))
        for leftover in self.path.glob(".*.part"):
            leftover.unlink(missing_ok=True)

    def release(self) -> None:
        """Let another process write here."""
        if self._curves is not None:
            self._curves.close()
            self._curves = None
        self._lock.release()

    def begin(self, about: dict[str, Any]) -> None:
        """Write `run.json`, and remove what a run that saved no state has left."""
        for leftover in (self.rows, self.samples) if self.writes else ():
            leftover.unlink(missing_ok=True)
        self.write_json(self.about, about)

    def begin_curves(self, first_step: int) -> None:
        """Open the curves for tensorboard; points from `first_step` on are dropped."""
        if self.writes:
            from torch.utils.tensorboard import SummaryWriter  # here: whoever only reads a run needs none

            self._curves = SummaryWriter(str(self.path / "tensorboard"), purge_step=first_step)

    def record(self, row: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`, and its values to the curves; the line is on its way to the disk then."""
        if not self.writes:
            return
        try:
            with open(self.rows, "a", encoding="utf-8") as file:
                file.write(json.dumps(json_safe(row)) + "\n")
        except OSError as error:
            raise OSError(error.errno, f"{self.rows} could not be written ({error.strerror})") from error
        if self._curves is not None:
            for name, value in _points(row):
                self._curves.add_scalar(name, value, row["step"])

    def read_rows(self) -> list[dict[str, Any]]:
        """All whole lines of `metrics.jsonl`."""
        return read_rows(self.rows)

    def forget_rows_after(self, step: int, evaluate_again: int | None = None) -> None:
        """Drop the lines of steps that a resumed run takes again, and a line cut off by a kill.

        Args:
            step: the last that is not taken again.
            evaluate_again: epoch whose evaluation is repeated, if one is.
        """
        if self.writes and self.rows.exists():
            kept = [row for row in self.read_rows() if row["step"] <= step or row["kind"] == "session"]
            kept = [row for row in kept if row["kind"] != "eval" or row["epoch"] != evaluate_again]
            write_atomically(self.rows, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Write one JSON file, whole or not at all; values that are not finite become null."""
        if self.writes:
            write_atomically(path, (json.dumps(json_safe(content), indent=1) + "\n").encode())

    def save_state(self, path: Path, state: dict[str, Any]) -> None:
        """`checkpoint.save_state`, on rank zero only."""
        if self.writes:
            save_state(path, state)


def _points(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What the curves show of a row."""
    if row["kind"] == "train":
        yield from ((f"train/{name}", row[name]) for name in _CURVES)
    elif row["kind"] == "eval":
        aps = {f"eval/ap_{name}": row[name]["ap"] for name in ("ema", "raw")}
        yield from ((name, ap) for name, ap in aps.items() if ap is not None and math.isfinite(ap))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a `metrics.jsonl`; none where it does not exist. What was cut off, or is no row, is left out."""
    return [row for row in read_lines(path)[0] if "kind" in row] if path.exists() else []


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file, one a line, and how many other lines there are, as one that was cut off."""
    rows, unreadable = [], 0
    for line in filter(str.strip, path.read_text(encoding="utf-8-sig", errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            unreadable += 1
    return rows, unreadable


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe of which `values` is `dataclasses.asdict`, back from JSON; missing fields get their defaults."""
    parts = {"model": ModelConfig, "loss": LossConfig, "data": DataConfig, "train": TrainConfig}
    made = {
        name: part(**{k: tuple(v) if isinstance(v, list) else v for k, v in values[name].items()})
        for name, part in parts.items()
    }
    return Recipe(name=values["name"], **made)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The machine and the code of a run: versions, processor, device, commit, command."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(["dfine" if "dfine" in sys.argv[0] else Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"dfine_lib": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
    }


def _commit(source: Path = Path(__file__)) -> str | None:
    """Commit of the repository that the library's own files are tracked in; not of one that merely encloses them."""
    try:
        run = lambda *args: subprocess.run(  # noqa: E731
            ["git", "-C", str(source.parent), *args], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        run("ls-files", "--error-unmatch", source.name)
        return run("rev-parse", "HEAD") + ("+changes" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
