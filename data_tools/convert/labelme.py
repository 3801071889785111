"""LabelMe: one JSON file a picture. Rectangles, polygons, circles and lines become the boxes around them."""

from __future__ import annotations

import math
import posixpath
from pathlib import Path
from typing import Any

from data_tools.convert.json_stream import read_small
from data_tools.convert.records import (
    Box,
    ImageRecord,
    Source,
    around,
    files_below,
    numbers,
    size_or_none,
    text,
)  # fmt: skip
from data_tools.convert.splits import split_name
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

OUTLINES = ("polygon", "rectangle", "line", "linestrip", "mask")


def read_labelme(
    source: Path, split: str, *, follow_links: bool = False, ledger: Ledger, join_groups: bool = True
) -> Source:
    """A folder of LabelMe files, with folders train/, val/ … in it or without; or one file."""
    root = source if source.is_dir() else source.parent
    files = list(files_below(source, (".json",))) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: no LabelMe files (.json) here.")
    found = []
    for file in files:
        top = file.relative_to(root).parts[0].lower()
        known = top in ("train", "val", "valid", "validation", "test") and file.parent != root
        found.append((split_name(top) if known else split, file))
    ledger.found("annotation files", len(found))
    ledger.taken("annotation files", len(found))
    pictures = (_picture(file, root, name, follow_links, ledger) for name, file in found)
    return Source(root, pictures, tuple(dict.fromkeys(name for name, _ in found)), None, len(found))


def _picture(file: Path, root: Path, split: str, follow_links: bool, ledger: Ledger) -> ImageRecord:
    location = str(file)
    record = read_small(file, root, follow_links=follow_links)
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        raise DataError(f"{location}: no list 'shapes'; is it LabelMe? (one COCO file: --from coco)")
    name = text(record.get("imagePath"), location, "'imagePath'").replace("\\", "/")
    if ".." in name.split("/") and not name.startswith("/"):  # relative to the JSON file: ../images/a.jpg
        name = posixpath.normpath(posixpath.join(file.parent.relative_to(root).as_posix(), name))
    picture = ImageRecord(
        split, name, size_or_none(record.get("imageWidth"), location, "imageWidth"),
        size_or_none(record.get("imageHeight"), location, "imageHeight"), [], location, folders=(file.parent,),
        spare_names=tuple(file.stem + end for end in (".jpg", ".png") if file.stem + end != name), may_be_path=True,
    )  # fmt: skip
    for i, shape in enumerate(record["shapes"]):
        where = f"{location}, shapes[{i}]"
        if not isinstance(shape, dict):
            raise DataError(f"{where}: expected an object.")
        kind = shape.get("shape_type") or "polygon"
        if kind in ("point", "points"):
            ledger.skip("boxes", "a point, which has no box", where)
        else:
            picture.boxes.append(_box(shape, kind, where))
    return picture


def _box(shape: dict[str, Any], kind: Any, location: str) -> Box:
    points = shape.get("points")
    if not isinstance(points, list) or not points:
        raise DataError(f"{location}: no list 'points'.")
    corners = [tuple(numbers(point, 2, location, "a point")) for point in points]
    name = text(shape.get("label"), location, "'label'")
    if kind == "circle":
        if len(corners) != 2:
            raise DataError(f"{location}: a circle has 2 points, centre and edge; got {len(corners)}.")
        (x, y), edge = corners
        radius = math.dist((x, y), edge)
        return around([(x - radius, y - radius), (x + radius, y + radius)], name, location)
    if kind not in OUTLINES:
        raise DataError(f"{location}: shape_type {str(kind)[:40]!r} is not known.")
    return around(corners, name, location)
