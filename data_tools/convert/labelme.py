"""LabelMe: one JSON file an image. Rectangles, polygons, circles and lines become the boxes around them.

Shapes of one label and one `group_id` are parts of one object, and become one box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from data_tools.convert.annotation_files import Entry, ImageLocations, annotation_files, by_folders, entries
from data_tools.convert.json_kinds import kind_of
from data_tools.convert.records import (
    TURNED,
    Box,
    ImageRecord,
    NothingLeft,
    Source,
    around,
    corners,
    numbers,
    size_or_none,
    text,
)
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import in_order, train_last
from data_tools.ledger import Ledger
from dfine_lib.data.images import DataError

# Some of X-AnyLabeling are among them: rotation (four corners) and quadrilateral.
OUTLINES = ("polygon", "rectangle", "line", "linestrip", "mask", "rotation", "quadrilateral")
POINTS = ("point", "points")
JOINED = "shapes of one label and one group_id joined into one box"
APART = "group_id with several labels: a box for each label"


def read_labelme(source: SourceFolder, *, join_groups: bool = True) -> Source:
    """A folder of LabelMe files, with folders train/, val/ … at any depth or without; or one file."""
    files = annotation_files(source, ".json", "LabelMe files")
    found = entries(by_folders(files, source), source.root)
    source.ledger.found(KIND, len(found))
    records = _records(source, found, join_groups)
    return Source(source.root, records, in_order(entry.split for entry in found), None, len(found))


def _records(source: SourceFolder, found: list[Entry], join_groups: bool) -> Iterator[ImageRecord]:
    places = ImageLocations(found, source.root)
    for entry in train_last(found, attrgetter("split")):
        content = source.json(entry.file)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            other = kind_of(content)
            kind = f"no LabelMe file: {other}" if other else "no LabelMe file (no list 'shapes')"
            if source.path.is_file():
                raise NothingLeft(f"{entry.file}: {kind}.")
            source.ledger.left_out(KIND, kind, entry.file)
            continue
        source.ledger.taken(KIND)
        yield _record(entry, content, places, join_groups, source.ledger)


def _record(
    entry: Entry, content: dict[str, Any], places: ImageLocations, join_groups: bool, ledger: Ledger
) -> ImageRecord:
    location = str(entry.file)
    said = content.get("imagePath")
    found: list[tuple[Any, Box]] = []  # with their group
    for i, shape in enumerate(content["shapes"]):
        where = f"{location}, shapes[{i}]"
        if not isinstance(shape, dict):
            raise DataError(f"{where}: expected an object.")
        kind = shape.get("shape_type") or "polygon"
        if kind in POINTS:
            ledger.skip("boxes", "a point, which has no box", where)
        else:
            found.append((_group(shape.get("group_id"), where), _box(shape, kind, where)))
    return ImageRecord(
        entry.split, width=size_or_none(content.get("imageWidth"), location, "imageWidth"),
        height=size_or_none(content.get("imageHeight"), location, "imageHeight"),
        boxes=_joined(found) if join_groups else [box for _, box in found], location=location, may_be_path=True,
        **places.of(entry, "" if said in (None, "") else text(said, location, "'imagePath'")),
    )  # fmt: skip


def _group(value: Any, location: str) -> int | str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{location}: 'group_id' should be a whole number or null. Correct it.")
    return value


def _joined(found: list[tuple[Any, Box]]) -> list[Box]:
    """One box for the shapes of one label and one group, in the place of the first; 0 is a group as any other."""
    parts: dict[Any, list[Box]] = {}
    labels: dict[Any, set[str]] = {}
    for i, (group, box) in enumerate(found):
        parts.setdefault((None, i) if group is None else (group, box.name), []).append(box)
        if group is not None:
            labels.setdefault(group, set()).add(box.name)
    said = set()
    for (group, _), boxes in parts.items():
        first = boxes[0]
        if len(boxes) > 1:
            _cover(first, boxes)
            first.notes += (JOINED,)
            first.location += f" and {len(boxes) - 1} more of group_id {str(group)[:40]}"
        if len(labels.get(group, ())) > 1 and group not in said:
            said.add(group)
            first.notes += (APART,)
    return [boxes[0] for boxes in parts.values()]


def _cover(first: Box, boxes: list[Box]) -> None:
    """Make the first box the smallest one around all."""
    right, bottom = max(box.left + box.width for box in boxes), max(box.top + box.height for box in boxes)
    first.left, first.top = min(box.left for box in boxes), min(box.top for box in boxes)
    first.width, first.height = right - first.left, bottom - first.top
    first.difficult = all(box.difficult for box in boxes)


def _box(shape: dict[str, Any], kind: Any, location: str) -> Box:
    points = shape.get("points")
    if not isinstance(points, list) or not points:
        raise DataError(f"{location}: no list 'points'.")
    found = [tuple(numbers(point, 2, location, "a point")) for point in points]
    name = text(shape.get("label"), location, "'label'")
    difficult = shape.get("difficult") is True
    if kind == "circle":
        if len(found) != 2:
            raise DataError(f"{location}: a circle has 2 points, centre and edge; got {len(found)}.")
        (x, y), edge = found
        radius = math.dist((x, y), edge)
        return corners(x - radius, y - radius, x + radius, y + radius, name, location, difficult=difficult)
    if kind not in OUTLINES:
        raise DataError(f"{location}: shape_type {str(kind)[:40]!r} is not known. Draw it as a polygon, or remove it.")
    return around(found, name, location, difficult=difficult, notes=(TURNED,) if kind == "rotation" else ())
