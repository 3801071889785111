"""Apple's CreateML: a JSON list of pictures; boxes by their centre, in pixels; no sizes of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.convert.json_stream import list_records
from data_tools.convert.records import Box, ImageRecord, Source, annotation_file, files_below, number, text
from data_tools.convert.splits import split_name
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

SPLITS = ("train", "val", "valid", "validation", "test")


def read_createml(source: Path, split: str, *, follow_links: bool = False, ledger: Ledger) -> Source:
    """One JSON file, or a folder with one; or folders train/, valid/ … with one each."""
    root = source if source.is_dir() else source.parent
    files = list(files_below(source, (".json",))) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: no CreateML file (.json) here.")
    splits: dict[str, Path] = {}
    for file in files:
        words = (*file.relative_to(root).parts[:-1][:1], file.stem)
        name = next((split_name(word) for word in words if word.lower() in SPLITS), split)
        if name in splits:
            raise DataError(f"{source}: two files for split {name}: {splits[name]} and {file}. Give one of them.")
        splits[name] = file
    ledger.found("annotation files", len(splits))
    ledger.taken("annotation files", len(splits))
    pictures = (picture for name, file in splits.items() for picture in _pictures(file, root, name, follow_links))
    return Source(root, pictures, tuple(splits))


def _pictures(file: Path, root: Path, split: str, follow_links: bool) -> Iterator[ImageRecord]:
    for i, record in list_records(annotation_file(file, root, follow_links)):
        location = f"{file}, record {i}"
        if not isinstance(record, dict) or not isinstance(record.get("annotations", []), list):
            raise DataError(f"{location}: expected an object with 'image' and a list 'annotations'.")
        name = text(record.get("image", record.get("imagefilename")), location, "'image'")
        boxes = [_box(found, f"{location}, annotations[{j}]") for j, found in enumerate(record.get("annotations", []))]
        yield ImageRecord(split, name, None, None, boxes, location, folders=(file.parent,))


def _box(found: Any, location: str) -> Box:
    at = found.get("coordinates") if isinstance(found, dict) else None
    if not isinstance(at, dict):
        raise DataError(f"{location}: no object 'coordinates'.")
    x, y, width, height = (number(at.get(key), location, key) for key in ("x", "y", "width", "height"))
    return Box(
        x - width / 2, y - height / 2, width, height, text(found.get("label"), location, "'label'"), location=location
    )
