"""What a run leaves behind: everything that another person needs to repeat or resume it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dfine_lib.config import DataConfig, LossConfig, ModelConfig, Recipe, TrainConfig
from dfine_lib.errors import DfineError
from dfine_lib.files import json_safe, write_atomically
from dfine_lib.train.checkpoint import save_state

LOCK_WAIT = 10.0  # seconds: DataLoader workers of a killed run hold its lock until they notice


class RunFolder:
    """Names and formats of the files of one run.

    - `run.json`: recipe, data, seed, commit, command, versions, machine; written at the start.
    - `metrics.jsonl`: one JSON object a line, `kind` train, eval or skipped, appended while training; kind `session`
      says where and with which code the run was started or resumed.
    - `last.pt`: state to resume from. `best_stage1.pt`: state from which the second stage starts.
    - `model.safetensors`: EMA weights of the best evaluation. `metrics.json`: the result, written at the end.
    - Whatever a `RunCallback` writes, as `samples.json` and `tensorboard/` of `dfine train`.

    Of several ranks only rank zero writes; the others' folder (`writes=False`) only knows the names.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, path: str | Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self._lock = FileLock(self.path / ".lock")
        self.about = self.path / "run.json"
        self.rows = self.path / "metrics.jsonl"
        self.last = self.path / "last.pt"
        self.best_stage1 = self.path / "best_stage1.pt"
        self.model = self.path / "model.safetensors"
        self.result = self.path / "metrics.json"
        try:
            if writes:
                self.path.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.path):
                    pass
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
        self._lock.release()

    def begin(self, about: dict[str, Any]) -> None:
        """Write `run.json`, and remove the rows of a run that saved no state."""
        if self.writes:
            self.rows.unlink(missing_ok=True)
        self.write_json(self.about, about)

    def record(self, row: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`; it is on its way to the disk then."""
        if not self.writes:
            return
        try:
            with open(self.rows, "a", encoding="utf-8") as file:
                file.write(json.dumps(json_safe(row)) + "\n")
        except OSError as error:
            raise OSError(error.errno, f"{self.rows} could not be written ({error.strerror})") from error

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
