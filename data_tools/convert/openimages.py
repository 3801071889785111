"""OpenImages' box CSV: `ImageID, LabelName, XMin, XMax, YMin, YMax, …`, edges as fractions of the image.

`IsGroupOf` becomes `iscrowd`. Names stand for the codes (`/m/01g317`) where `*class-descriptions*.csv` is in the
folder. Other CSV files there (masks, image labels, relations) are counted and not read. Decimal commas are read as
points.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_tools.convert.csv_file import csv_files
from data_tools.convert.packed import CROWD, TRUNCATED, BoxColumns
from data_tools.convert.records import ImageRecord, Source, number, text
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import by_split
from data_tools.image_formats import is_image_name
from dfine_lib.data.images import DataError

NEEDED = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
DESCRIPTIONS = "class-descriptions"
FARTHEST = 2.0  # sides of the image; edges beyond are pixels


def read_openimages(source: SourceFolder) -> Source:
    """`train-annotations-bbox.csv`, `validation-…`, `test-…`, or any one CSV file with those columns."""
    beside = csv_files(source.path) if source.path.is_dir() else sorted(source.root.glob("*.csv"))
    descriptions = _descriptions(source, [file for file in beside if DESCRIPTIONS in _plain(file)])
    candidates = [file for file in csv_files(source.path) if DESCRIPTIONS not in _plain(file)]
    files = []
    for file in candidates:
        if len(candidates) > 1 and (reason := _no_boxes(source, file)) is not None:
            source.ledger.skip(KIND, reason, file)
        else:
            files.append(file)
    if not files:
        raise DataError(f"{source.path}: no CSV file with columns {', '.join(NEEDED)} (other CSV: --from csv).")
    splits = source.one_for_each_split(files)
    return Source(source.root, by_split(splits, partial(_records, source, descriptions)), tuple(splits))


def _plain(file: Path) -> str:
    return file.name.lower().replace("_", "-")


def _descriptions(source: SourceFolder, files: list[Path]) -> dict[str, str]:
    """Name of every code."""
    found = {}
    for file in files:
        for line, row in source.csv_rows(file):
            if len(row) < 2:
                raise DataError(f"{file}, line {line}: expected a code and a name.")
            found[row[0].strip()] = row[1].strip()
    return found


def _no_boxes(source: SourceFolder, file: Path) -> str | None:
    """Why a CSV file is none of boxes, by its header; None where it is one."""
    header = {field.strip() for field in next(source.csv_rows(file), (0, []))[1]}
    if header.issuperset(NEEDED):
        return None
    if "MaskPath" in header:
        return "masks of objects (their boxes are in the file of boxes)"
    if "RelationshipLabel" in header:
        return "relations of objects"
    return "image labels without boxes" if {"ImageID", "LabelName"} <= header else "CSV file of other columns"


def _records(source: SourceFolder, descriptions: dict[str, str], split: str, file: Path) -> Iterator[ImageRecord]:
    """Images in the order in which the file first names them; rows of one image need not be together."""
    images: dict[str, int] = {}
    names: dict[str, int] = {}
    boxes = BoxColumns()
    columns: dict[str, int] = {}
    for line, row in source.csv_rows(file):
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
        found = boxes.boxes_of(key, listed, f"{file}, line ")
        yield ImageRecord(split, image if is_image_name(image) else f"{image}.jpg", None, None, found,
                          f"{file}, ImageID {image[:80]}", relative=True)  # fmt: skip


def _is_set(row: list[str], columns: dict[str, int], key: str) -> bool:
    at = columns.get(key, len(row))
    return at < len(row) and row[at].strip() == "1"
