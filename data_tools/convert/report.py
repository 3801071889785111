"""What a conversion was asked for, what it did, and the report that lists what was left out or changed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from data_tools.convert.records import NothingLeft
from data_tools.convert.voc import Corners
from data_tools.image_frames import Frame
from data_tools.ledger import Ledger

FILE = "conversion_report.json"
MOST_REASONS = 6  # of one kind, in the summary


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to convert; see `dfine data convert --help`."""

    images: Path | None = None
    categories: str | None = None
    split: str = "train"
    image_files: Literal["link", "copy", "none"] = "link"
    sizes: Path | None = None
    keep_outside: bool = False
    keep_groups: bool = False
    fractions: bool = False
    exif: Frame | None = None
    follow_links: bool = False
    voc_corners: Corners = "plain"
    person_box: Literal["full", "visible", "head"] = "full"
    progress: bool = True


@dataclass
class Result:
    """What was made of what."""

    out: Path
    images: dict[str, int] = field(default_factory=dict)  # by split
    boxes: dict[str, int] = field(default_factory=dict)
    categories: int = 0
    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # the ledger
    changed: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def left_out(self, kind: str) -> dict[str, int]:
        """How many images, records, boxes … were left out, by reason."""
        return self.found.get(kind, {}).get("left_out", {})


class Report:
    """The ledger of one conversion, whose entries go to disk as they come."""

    def __init__(self, folder: Path, source: Path, read: str, write: str, options: Options):
        self.folder, self.source, self.read, self.write, self.options = folder, source, read, write, options
        self.result = Result(folder)
        self.ledger = Ledger(self._list)
        self._first: dict[tuple[str, str], str] = {}  # where something was first left out for a reason

    def __enter__(self) -> Report:
        self._spool = (self.folder / ".report").open("w+", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()
        Path(self._spool.name).unlink(missing_ok=True)

    def _list(self, kind: str, reason: str, location: str) -> None:
        self._first.setdefault((kind, reason), location)
        self._spool.write(json.dumps({"kind": kind, "what": reason, "where": location}, ensure_ascii=True) + "\n")

    def changed(self, what: str, location: str) -> None:
        """Count and list something that was taken otherwise than the source says."""
        self.result.changed[what] = self.result.changed.get(what, 0) + 1
        self._list("changed", what, location)

    def remark(self, text: str) -> None:
        """A sentence for the summary; said once."""
        if text not in self.result.remarks:
            self.result.remarks.append(text)

    def finish(self, categories: list[dict[str, Any]]) -> Result:
        """Hold the sums against each other, and write the report."""
        self.ledger.check()
        result, options = self.result, vars(self.options)
        result.found = self.ledger.to_dict()
        content = {
            "source": str(self.source), "from": self.read, "to": self.write,
            "options": {key: str(value) if isinstance(value, Path) else value
                        for key, value in options.items() if key != "progress"},
            "images": result.images, "boxes": result.boxes, "ledger": result.found, "changed": result.changed,
            "remarks": result.remarks, "categories": categories,
        }  # fmt: skip
        with (self.folder / FILE).open("w", encoding="utf-8") as out:
            out.write(json.dumps(content, indent=1)[:-2] + ',\n "listed": [')
            self._spool.seek(0)
            for i, row in enumerate(self._spool):
                out.write(("," if i else "") + "\n  " + row.rstrip())
            out.write("\n ]\n}\n")
        return result

    def nothing_left(self, what: str, kinds: tuple[str, ...], way_out: str = "") -> NothingLeft:
        """The failure where nothing is left, with what took most of each kind."""
        sums = [self.ledger.summary(kind) for kind in kinds if self.ledger.number_found(kind)]
        reasons = [(n, reason, kind) for kind in kinds for reason, n in self.ledger.reasons(kind).items()]
        most = ""
        if reasons:  # images without a record tell least: they follow from the rest
            _, reason, kind = max(reasons, key=lambda found: (found[2] != "images", found[0]))
            most = f" Most were left out for: {reason} (first: {self._first[kind, reason][:300]})."
        summed = "; ".join(sums) or "nothing of this format was found"
        remarks = "".join(f" {remark[:1].upper()}{remark[1:]}." for remark in self.result.remarks)
        return NothingLeft(" ".join(f"{self.source}: {what}: {summed}.{most}{remarks} {way_out}".split()))


def summary(result: Result, read: str, write: str) -> str:
    """One line for a person."""
    images = ", ".join(f"{name} {count:,}" for name, count in result.images.items())
    parts = [f"{read} → {write}: {sum(result.images.values()):,} images ({images}), "
             f"{sum(result.boxes.values()):,} boxes, {result.categories} categories in {result.out}"]  # fmt: skip
    for kind, counts in result.found.items():
        if counts["left_out"]:
            parts.append(f"left out {sum(counts['left_out'].values()):,} of {counts['found']:,} {kind} "
                         f"({_reasons(counts['left_out'])})")  # fmt: skip
    if result.changed:
        parts.append(f"changed {sum(result.changed.values()):,} ({_reasons(result.changed)})")
    return "; ".join([*parts, *result.remarks, f"report: {result.out / FILE}"])


def _reasons(counts: dict[str, int]) -> str:
    listed = sorted(counts.items(), key=lambda item: -item[1])
    more = ", …" if len(listed) > MOST_REASONS else ""
    return ", ".join(f"{reason}: {count:,}" for reason, count in listed[:MOST_REASONS]) + more
