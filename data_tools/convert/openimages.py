"""OpenImages' box CSV: `ImageID, LabelName, XMin, XMax, YMin, YMax, …`, edges as fractions of the picture.

`IsGroupOf` becomes `iscrowd`. Names stand for the codes (`/m/01g317`) where `class-descriptions*.csv` lies beside.
Decimal commas are read as points.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_tools.convert.csv_file import csv_files, rows
from data_tools.convert.packed import CROWD, TRUNCATED, BoxColumns
from data_tools.convert.records import Box, ImageRecord, Source, number, text
from dfine_lib.data.image_formats import is_image_name
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

NEEDED = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
DESCRIPTIONS = "class-descriptions"


def read_openimages(source: Path, split: str, *, follow_links: bool = False, ledger: Ledger) -> Source:
    """`train-annotations-bbox.csv`, `validation-…`, `test-…`, or any one CSV file with those columns."""
    root = source if source.is_dir() else source.parent
    files: dict[str, Path] = {}
    for file in csv_files(source, skip=(DESCRIPTIONS, "imagelabels", "image-labels", "image_ids", "image-ids")):
        word = file.name.lower()
        name = "train" if "train" in word else "val" if "validation" in word else "test" if "test" in word else split
        if name in files:
            raise DataError(f"{source}: two files for split {name}: {files[name].name} and {file.name}. Name one.")
        files[name] = file
    ledger.found("annotation files", len(files))
    ledger.taken("annotation files", len(files))
    descriptions = {}
    for file in sorted(root.glob(f"{DESCRIPTIONS}*.csv")):
        for line, row in rows(file, root, follow_links):
            if len(row) < 2:
                raise DataError(f"{file}, line {line}: expected a code and a name.")
            descriptions[row[0].strip()] = row[1].strip()
    pictures = (
        picture for name, file in files.items() for picture in _pictures(file, root, name, descriptions, follow_links)
    )
    return Source(root, pictures, tuple(files))


def _pictures(
    file: Path, root: Path, split: str, descriptions: dict[str, str], follow_links: bool
) -> Iterator[ImageRecord]:
    """Pictures in the order in which the file first names them; rows of one picture need not stand together."""
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
        if max(map(abs, (x1, x2, y1, y2))) > 10:
            raise DataError(f"{location}: edges should be fractions of the picture, 0 to 1. (Pixels: --from csv.)")
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
