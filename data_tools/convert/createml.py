"""Apple's CreateML: a JSON list of images; boxes by their centre, in pixels; no sizes of images.

An image is named by `image` or `imagefilename`, its boxes are in `annotations` or `annotation`: Apple's documents have
both. Other keys are refused, so that no box is lost under another name.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.convert.json_kinds import kind_of
from data_tools.convert.json_stream import first_character, list_records
from data_tools.convert.records import Box, ImageRecord, NothingLeft, Source, number, text
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import by_split
from dfine_lib.data.images import DataError

IMAGE = ("image", "imagefilename")
BOXES = ("annotations", "annotation")
SIDES = ("x", "y", "width", "height")


def read_createml(source: SourceFolder) -> Source:
    """One JSON file, or a folder with one; or folders train/, valid/ … with one each."""
    files = source.files(".json")
    lists = [file for file in files if first_character(source.file(file)) == "["]
    if not lists:
        other = f" {files[0]} is something else: {kind_of(source.json(files[0])) or 'no list'}." if files else ""
        raise NothingLeft(f"{source.path}: no CreateML file (.json with a list of images) here.{other}")
    splits = source.one_for_each_split(lists)
    for file in files:
        if file not in lists:
            source.ledger.skip(KIND, "JSON that is no list of images", file)
    return Source(source.root, by_split(splits, partial(_records, source)), tuple(splits))


def _records(source: SourceFolder, split: str, file: Path) -> Iterator[ImageRecord]:
    for i, record in list_records(source.file(file)):
        location = f"{file}, record {i}"
        if i == 0 and (kind := kind_of([record])) and "CreateML" not in kind:
            raise NothingLeft(f"{file}: no CreateML file, but something else: {kind}.")
        if not isinstance(record, dict):
            raise DataError(f"{location}: expected an object with {IMAGE[0]!r} and a list {BOXES[0]!r}.")
        name = text(_value(record, IMAGE, location), location, f"{IMAGE[0]!r}")
        alone = len(record) == 1  # an image that was never annotated
        listed = [] if alone else _value(record, BOXES, location)
        if not isinstance(listed, list):
            raise DataError(f"{location}: {BOXES[0]!r} should be a list. Correct it.")
        boxes = [_box(found, f"{location}, {BOXES[0]}[{j}]") for j, found in enumerate(listed)]
        yield ImageRecord(split, name, None, None, boxes, location, folders=(file.parent,))


def _value(record: dict[str, Any], keys: tuple[str, str], location: str) -> Any:
    """The value of the first of two keys that is there."""
    for key in keys:
        if key in record:
            return record[key]
    raise DataError(f"{location}: neither {keys[0]!r} nor {keys[1]!r}; {_keys(record)}. Rename the key that means it.")


def _keys(record: dict[str, Any]) -> str:
    found = ", ".join(repr(key[:30]) for key in list(record)[:8])
    return f"the keys are {found}" if found else "there are no keys"


def _box(found: Any, location: str) -> Box:
    at = found.get("coordinates") if isinstance(found, dict) else None
    if not isinstance(at, dict):
        raise DataError(f"{location}: no object 'coordinates'{f'; {_keys(found)}' if isinstance(found, dict) else ''}.")
    if missing := [key for key in SIDES if key not in at]:
        raise DataError(f"{location}: no {missing[0]!r} in 'coordinates'; {_keys(at)}. Expected {', '.join(SIDES)}.")
    x, y, width, height = (number(at[key], location, key) for key in SIDES)
    return Box(
        x - width / 2, y - height / 2, width, height, text(found.get("label"), location, "'label'"), location=location
    )
