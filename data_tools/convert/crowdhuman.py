"""CrowdHuman's `.odgt`: one JSON object a line, one picture each, no sizes; the class is person.

A `mask` and whatever has `ignore` = 1 become `iscrowd` = 1: neither trained on nor counted as missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.convert.json_stream import parse
from data_tools.convert.records import Box, Category, ImageRecord, Source, annotation_file, files_below, numbers, text
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

BOXES = {"full": "fbox", "visible": "vbox", "head": "hbox"}
LONGEST_LINE = 16 << 20  # bytes


def read_crowdhuman(
    source: Path, split: str, *, person_box: str = "full", follow_links: bool = False, ledger: Ledger
) -> Source:
    """`annotation_train.odgt` and `annotation_val.odgt` of a folder, or one such file."""
    root = source if source.is_dir() else source.parent
    files = list(files_below(source, (".odgt",))) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: no CrowdHuman annotation files (.odgt) here.")
    splits = []
    for file in files:
        word = file.stem.lower()
        splits.append("val" if "val" in word else "test" if "test" in word else "train" if "train" in word else split)
    if len(set(splits)) < len(files):
        raise DataError(f"{source}: several .odgt files of one split: {', '.join(file.name for file in files)[:200]}.")
    ledger.found("annotation files", len(files))
    ledger.taken("annotation files", len(files))
    pictures = (
        picture
        for file, name in zip(files, splits)
        for picture in _pictures(file, root, name, person_box, follow_links, ledger)
    )
    return Source(root, pictures, tuple(splits), [Category("person")])


def _pictures(
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
                yield _picture(parse(content, location), location, split, person_box, ledger)


def _picture(record: Any, location: str, split: str, person_box: str, ledger: Ledger) -> ImageRecord:
    if not isinstance(record, dict) or not isinstance(record.get("gtboxes", []), list):
        raise DataError(f"{location}: expected an object with 'ID' and a list 'gtboxes'.")
    picture = ImageRecord(split, text(record.get("ID"), location, "'ID'") + ".jpg", None, None, [], location)
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
        picture.boxes.append(Box(*numbers(found[key], 4, where, key), "person", crowd=ignored, location=where))
    return picture
