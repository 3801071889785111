"""What a run leaves behind: everything that another person needs to repeat or resume it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from dfine_lib.files import json_safe, write_atomically
from dfine_lib.train.checkpoint import save_state


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

    def precision(self) -> str | None:
        """The precision that the run in this folder was started with; None: it holds no run."""
        if not self.about.exists() or not (self.last.exists() or self.result.exists()):
            return None
        return json.loads(self.about.read_text(encoding="utf-8"))["recipe"]["train"]["precision"]

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

    def forget_rows_after(self, step: int, evaluate_again: int | None = None) -> None:
        """Drop the lines of steps that a resumed run takes again, and a line cut off by a kill.

        Args:
            step: the last that is not taken again.
            evaluate_again: epoch whose evaluation is repeated, if one is.
        """
        if self.writes and self.rows.exists():
            kept = [row for row in read_rows(self.rows) if row["step"] <= step or row["kind"] == "session"]
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
    rows = []
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and "kind" in row]
