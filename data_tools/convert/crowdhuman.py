"""CrowdHuman's `.odgt`: one JSON object a line, one image each, no sizes; the class is person.

A `mask` and whatever has `ignore` = 1 become `iscrowd` = 1: neither trained on nor counted as missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_tools.convert.json_stream import parse
from data_tools.convert.records import (
    Box,
    Category,
    ImageRecord,
    NothingLeft,
    Source,
    annotation_file,
    files_below,
    numbers,
    text,
)
from data_tools.convert.splits import split_of_file, train_last
from data_tools.ledger import Ledger
from dfine_lib.data.images import DataError

BOXES = {"full": "fbox", "visible": "vbox", "head": "hbox"}
LONGEST_LINE = 16 << 20  # bytes


def read_crowdhuman(
    source: Path, split: str, *, person_box: str = "full", follow_links: bool = False, ledger: Ledger
) -> Source:
    """`annotation_train.odgt` and `annotation_val.odgt` of a folder, or one such file."""
    root = source if source.is_dir() else source.parent
    files = list(files_below(source, (".odgt",))) if source.is_dir() else [source]
    if not files:
        raise NothingLeft(f"{source}: no CrowdHuman annotation files (.odgt) here.")
    splits = [split_of_file(file.relative_to(root)) or split for file in files]
    if len(set(splits)) < len(files):
        named = ", ".join(f"{file.name} ({name})" for file, name in zip(files, splits, strict=True))
        raise DataError(f"{source}: several .odgt files of one split: {named[:300]}. Give one of them.")
    ledger.found("annotation files", len(files))
    ledger.taken("annotation files", len(files))
    records = (
        record for file, name in train_last(zip(files, splits, strict=True), itemgetter(1))
        for record in _records(file, root, name, person_box, follow_links, ledger)
    )  # fmt: skip
    return Source(root, records, tuple(splits), [Category("person")])


def _records(
    file: Path, root: Path, split: str, person_box: str, follow_links: bool, ledger: Ledger
) -> Iterator[ImageRecord]:
    annotation_file(file, root, follow_links)
    with file.open("rb") as stream:
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
                yield _record(parse(content, location), location, split, person_box, ledger)


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
