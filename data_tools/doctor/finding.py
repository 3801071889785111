"""A `Check` is a problem that a data set may have, a `Finding` one that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.doctor.reading import Split, shown
from dfine_lib.config import Recipe

ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = (ERROR, WARNING, NOTE)
MOST_EXAMPLES = 8


@dataclass(frozen=True)
class Check:
    """One thing that can be wrong with a data set."""

    name: str
    level: str  # error: training stops, or learns or measures what it should not; warning: look at it; note: know it
    title: str
    why: str  # why it matters for D-FINE
    what_to_do: str
    repair: str = ""  # what `--fix` does about it; empty: nothing


@dataclass(frozen=True)
class Example:
    """One place of a finding: in words, and where to look at it."""

    text: str
    file: Path | None = None
    boxes_xyxy: tuple[tuple[float, float, float, float], ...] = ()  # pixels of the file


@dataclass(frozen=True, kw_only=True)
class Finding(Check):
    """A problem that was found, in one split ("" where it is about both)."""

    split: str
    count: int
    examples: tuple[Example, ...]
    table: str = ""  # which list of the annotation file `rows` points into
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        names = ("name", "level", "title", "split", "count", "why", "what_to_do", "repair")
        return {name: getattr(self, name) for name in names} | {"examples": [one.text for one in self.examples]}


class Examination:
    """What is being looked at and what has been found so far; the checks add to it."""

    def __init__(self, checks: Iterable[Check], splits: Sequence[Split], recipe: Recipe) -> None:
        self.checks = {check.name: check for check in checks}
        self.splits = list(splits)
        self.recipe = recipe
        self.findings: list[Finding] = []

    def split(self, name: str) -> Split | None:
        """The split of that name, if its annotation file could be read."""
        return next((split for split in self.splits if split.name == name), None)

    def found(
        self,
        name: str,
        split: Split,
        table: str,
        rows: Any,
        say: Callable[[int], str] | None = None,
    ) -> None:
        """Add a finding about entries of a split; nothing where `rows` is empty.

        Args:
            name: of the check.
            split: whose entries.
            table: `images`, `annotations` or `categories`.
            rows: their places in that list, or a mask over it.
            say: more words about one of them.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        if not len(rows):
            return
        examples = []
        for row in rows[:MOST_EXAMPLES].tolist():
            one = _example(split, table, row)
            examples.append(Example(f"{one.text}: {say(row)}", one.file, one.boxes_xyxy) if say else one)
        self._add(name, split.name, len(rows), examples, table=table, rows=rows)

    def report(self, name: str, split: str, examples: Sequence[Example | str], count: int | None = None) -> None:
        """Add a finding that is not about entries of a list; nothing where there are no examples."""
        if examples:
            plain = [Example(one) if isinstance(one, str) else one for one in examples[:MOST_EXAMPLES]]
            self._add(name, split, len(examples) if count is None else count, plain)

    def rows(self, name: str, split: Split) -> np.ndarray:
        """Places that a check has found in a split."""
        found = [one.rows for one in self.findings if one.name == name and one.split == split.name]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

    def _add(self, name: str, split: str, count: int, examples: Sequence[Example], **more: Any) -> None:
        check = vars(self.checks[name])
        self.findings.append(Finding(**check, split=split, count=count, examples=tuple(examples), **more))


def _example(split: Split, table: str, row: int) -> Example:
    if table == "images":
        return Example(split.image_words(row), split.path(row))
    if table == "annotations":
        image = int(split.image_of[row])
        box = split.boxes_xywh[row]
        boxes = ()
        if np.isfinite(box).all() and np.abs(box).max() < 1e9:
            boxes = (tuple((box[[0, 1, 0, 1]] + [0, 0, box[2], box[3]]).tolist()),)
        return Example(split.annotation_words(row), split.path(image) if image >= 0 else None, boxes)
    record = split.categories[row]
    return Example(f"category id {shown(record.get('id'))} ({shown(record.get('name'))})")
