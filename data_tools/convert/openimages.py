"""OpenImages' box CSV: `ImageID, LabelName, XMin, XMax, YMin, YMax, …`, edges as fractions of the image.

`IsGroupOf` becomes `iscrowd`. Names stand for the codes (`/m/01g317`) where `*class-descriptions*.csv` is in the
folder. Other CSV files there (masks, image labels, relations) are counted and not read. Decimal commas are read as
points.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from data_tools.convert.csv_file import csv_files, rows
from data_tools.convert.packed import CROWD, TRUNCATED, BoxColumns
from data_tools.convert.records import Box, ImageRecord, Source, number, text
from data_tools.convert.splits import split_of_file, train_last
from data_tools.ledger import Ledger
from dfine_lib.data.image_formats import is_image_name
from dfine_lib.data.images import DataError

NEEDED = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
DESCRIPTIONS = "class-descriptions"
FARTHEST = 2.0  # sides of the image; edges beyond are pixels


def read_openimages(source: Path, split: str, *, follow_links: bool = False, ledger: Ledger) -> Source:
    """`train-annotations-bbox.csv`, `validation-…`, `test-…`, or any one CSV file with those columns."""
    root = source if source.is_dir() else source.parent
    beside = [*csv_files(source)] if source.is_dir() else sorted(root.glob("*.csv"))
    descriptions = _descriptions([file for file in beside if DESCRIPTIONS in _plain(file)], root, follow_links)
    files: dict[str, Path] = {}
    candidates = [file for file in csv_files(source) if DESCRIPTIONS not in _plain(file)]
    for file in candidates:
        if len(candidates) > 1 and (reason := _no_boxes(file, root, follow_links)) is not None:
            ledger.skip("annotation files", reason, file)
            continue
        name = split_of_file(file.relative_to(root)) or split
        if name in files:
            raise DataError(f"{source}: two files for split {name}: {files[name].name} and {file.name}. Name one.")
        files[name] = file
    if not files:
        raise DataError(f"{source}: no CSV file with columns {', '.join(NEEDED)} (other CSV: --from csv).")
    ledger.found("annotation files", len(files))
    ledger.taken("annotation files", len(files))
    records = (
        record
        for name, file in train_last(files.items(), itemgetter(0))
        for record in _records(file, root, name, descriptions, follow_links)
    )
    return Source(root, records, tuple(files))


def _plain(file: Path) -> str:
    return file.name.lower().replace("_", "-")


def _descriptions(files: list[Path], root: Path, follow_links: bool) -> dict[str, str]:
    """Name of every code."""
    found = {}
    for file in files:
        for line, row in rows(file, root, follow_links):
            if len(row) < 2:
                raise DataError(f"{file}, line {line}: expected a code and a name.")
            found[row[0].strip()] = row[1].strip()
    return found


def _no_boxes(file: Path, root: Path, follow_links: bool) -> str | None:
    """Why a CSV file is none of boxes, by its header; None where it is one."""
    header = {field.strip() for field in next(iter(rows(file, root, follow_links)), (0, []))[1]}
    if header.issuperset(NEEDED):
        return None
    if "MaskPath" in header:
        return "masks of objects (their boxes are in the file of boxes)"
    if "RelationshipLabel" in header:
        return "relations of objects"
    return "image labels without boxes" if {"ImageID", "LabelName"} <= header else "CSV file of other columns"


def _records(
    file: Path, root: Path, split: str, descriptions: dict[str, str], follow_links: bool
) -> Iterator[ImageRecord]:
    """Images in the order in which the file first names them; rows of one image need not be together."""
    images: dict[str, int] = {}
    names: dict[str, int] = {}
    boxes = BoxColumns()
    columns: dict[str, int] = {}
    for line, row in rows(file, root, follow_links):
        location = f"{file}, line {line}"
        if not columns:
            columns = {field.strip(): i for i, field in enumerate(row)}
            if missing := [key for key in NEEDED if key not in columns]:
                raise DataError(
                    f"{location}: no column {missing[0]!r}; expected {', '.join(NEEDED)} (other CSV: --from csv)."
                )
            continue
        if len(row) <= max(columns[key] for key in NEEDED):
            raise DataError(f"{location}: {len(row)} fields, {len(columns)} expected. The file may be cut off.")
        image = text(row[columns["ImageID"]].strip(), location, "ImageID")
        x1, x2, y1, y2 = (number(row[columns[key]], location, key) for key in NEEDED[2:])
        if max(map(abs, (x1, x2, y1, y2))) > FARTHEST:
            raise DataError(f"{location}: edges should be fractions of the image, 0 to 1. (Pixels: --from csv.)")
        code = text(row[columns["LabelName"]].strip(), location, "LabelName")
        name = descriptions.get(code, code)
        flags = CROWD * _is_set(row, columns, "IsGroupOf") | TRUNCATED * _is_set(row, columns, "IsTruncated")
        boxes.add(
            images.setdefault(image, len(images)), names.setdefault(name, len(names)), line, [x1, y1, x2 - x1, y2 - y1],
            flags,
        )  # fmt: skip
    if not columns:
        raise DataError(f"{file}: empty.")
    boxes.sort()
    listed = list(names)
    for image, key in images.items():
        has_ending = is_image_name(image)
        found = [
            Box(*values, listed[label], bool(flags & CROWD), truncated=bool(flags & TRUNCATED),
                location=f"{file}, line {line}")
            for label, line, values, flags, _, _ in boxes.of(key)
        ]  # fmt: skip
        yield ImageRecord(split, image if has_ending else f"{image}.jpg", None, None, found,
                      f"{file}, ImageID {image[:80]}", relative=True)  # fmt: skip


def _is_set(row: list[str], columns: dict[str, int], key: str) -> bool:
    at = columns.get(key, len(row))
    return at < len(row) and row[at].strip() == "1"
