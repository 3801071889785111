"""CrowdHuman's `.odgt`: one JSON object a line, one image each, no sizes; the class is person.

A `mask` and whatever has `ignore` = 1 become `iscrowd` = 1: neither trained on nor counted as missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.convert.json_stream import parse
from data_tools.convert.records import Box, Category, ImageRecord, NothingLeft, Source, numbers, text
from data_tools.convert.source_folder import SourceFolder
from data_tools.convert.splits import by_split
from data_tools.ledger import Ledger
from dfine_lib.data.images import DataError

BOXES = {"full": "fbox", "visible": "vbox", "head": "hbox"}
LONGEST_LINE = 16 << 20  # bytes


def read_crowdhuman(source: SourceFolder, *, person_box: str = "full") -> Source:
    """`annotation_train.odgt` and `annotation_val.odgt` of a folder, or one such file."""
    files = source.files(".odgt")
    if not files:
        raise NothingLeft(f"{source.path}: no CrowdHuman annotation files (.odgt) here.")
    splits = source.one_for_each_split(files)
    records = by_split(splits, partial(_records, source, person_box))
    return Source(source.root, records, tuple(splits), [Category("person")])


def _records(source: SourceFolder, person_box: str, split: str, file: Path) -> Iterator[ImageRecord]:
    with source.file(file).open("rb") as stream:
        line = 0
        while row := stream.readline(LONGEST_LINE + 1):
            line += 1
            location = f"{file}, line {line}"
            if len(row) > LONGEST_LINE:
                raise DataError(f"{location}: longer than {LONGEST_LINE >> 20} MiB.")
            try:
                content = row.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{location}: not UTF-8.") from error
            if content:
                yield _record(parse(content, location), location, split, person_box, source.ledger)


def _record(record: Any, location: str, split: str, person_box: str, ledger: Ledger) -> ImageRecord:
    if not isinstance(record, dict) or not isinstance(record.get("gtboxes", []), list):
        raise DataError(f"{location}: expected an object with 'ID' and a list 'gtboxes'.")
    if "gtboxes" not in record and (lists := [key for key, value in record.items() if isinstance(value, list)]):
        raise DataError(
            f"{location}: no list 'gtboxes'; its lists are {', '.join(repr(key[:30]) for key in lists[:5])}. Rename "
            "the one that holds the ground truth."
        )
    image = ImageRecord(split, text(record.get("ID"), location, "'ID'") + ".jpg", None, None, [], location)
    key = BOXES[person_box]
    for i, found in enumerate(record.get("gtboxes", [])):
        where = f"{location}, gtboxes[{i}]"
        if not isinstance(found, dict):
            raise DataError(f"{where}: expected an object.")
        tag = found.get("tag")
        extra = found.get("extra") or {}
        head = found.get("head_attr") or {}
        if not isinstance(extra, dict) or not isinstance(head, dict):
            raise DataError(f"{where}: 'extra' and 'head_attr' should be objects.")
        if tag not in ("person", "mask"):
            ledger.skip("boxes", f"tag {str(tag)[:30]!r}, neither person nor mask", where)
            continue
        if key not in found:
            ledger.skip("boxes", f"no {key}", where)
            continue
        ignored = tag == "mask" or extra.get("ignore") in (1, True) or (
            person_box == "head" and head.get("ignore") in (1, True)
        )  # fmt: skip
        image.boxes.append(Box(*numbers(found[key], 4, where, key), "person", crowd=ignored, location=where))
    return image
