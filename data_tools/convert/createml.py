"""Apple's CreateML: a JSON list of images; boxes by their centre, in pixels; no sizes of images.

An image is named by `image` or `imagefilename`, its boxes are in `annotations` or `annotation`: Apple's documents have
both. Other keys are refused, so that no box is lost under another name.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_tools.convert.json_kinds import kind_of
from data_tools.convert.json_stream import first_character, list_records, read_small
from data_tools.convert.records import Box, ImageRecord, NothingLeft, Source, annotation_file, files_below, number, text
from data_tools.convert.splits import split_of_file, train_last
from data_tools.ledger import Ledger
from dfine_lib.data.images import DataError

IMAGE = ("image", "imagefilename")
BOXES = ("annotations", "annotation")
SIDES = ("x", "y", "width", "height")


def read_createml(source: Path, split: str, *, follow_links: bool = False, ledger: Ledger) -> Source:
    """One JSON file, or a folder with one; or folders train/, valid/ … with one each."""
    root = source if source.is_dir() else source.parent
    files = list(files_below(source, (".json",))) if source.is_dir() else [source]
    lists = [file for file in files if _is_list(annotation_file(file, root, follow_links))]
    if not lists:
        other = _other_kind(files[0], root, follow_links) if files else ""
        raise NothingLeft(f"{source}: no CreateML file (.json with a list of images) here.{other}")
    splits: dict[str, Path] = {}
    for file in lists:
        name = split_of_file(file.relative_to(root)) or split
        if name in splits:
            raise DataError(f"{source}: two files for split {name}: {splits[name]} and {file}. Give one of them.")
        splits[name] = file
    ledger.found("annotation files", len(splits))
    ledger.taken("annotation files", len(splits))
    for file in set(files) - set(lists):
        ledger.skip("annotation files", "JSON that is no list of images", file)
    records = (
        record
        for name, file in train_last(splits.items(), itemgetter(0))
        for record in _records(file, root, name, follow_links)
    )
    return Source(root, records, tuple(splits))


def _is_list(file: Path) -> bool:
    return first_character(file) == "["


def _other_kind(file: Path, root: Path, follow_links: bool) -> str:
    """What a JSON file is that is no list, as a sentence."""
    kind = kind_of(read_small(file, root, follow_links=follow_links))
    return f" {file} is something else: {kind or 'no list'}."


def _records(file: Path, root: Path, split: str, follow_links: bool) -> Iterator[ImageRecord]:
    for i, record in list_records(annotation_file(file, root, follow_links)):
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
