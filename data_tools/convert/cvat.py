"""CVAT's XML, "CVAT for images": boxes, polygons, polylines, ellipses, masks; turned boxes by the box around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from data_tools.convert.records import (
    Box,
    Category,
    Picture,
    Source,
    around,
    corners,
    files_below,
    number,
    size_or_none,
    split_name,
    text,
)  # fmt: skip
from data_tools.convert.xml_stream import child_text, elements
from dfine_lib.data.images import DataError

SHAPES = ("box", "polygon", "polyline", "ellipse", "mask", "points", "cuboid", "skeleton", "tag")


def read_cvat(source: Path, split: str, *, follow_links: bool = False) -> Source:
    """One XML file, or a folder with one; `subset` of its images is the split."""
    root = source if source.is_dir() else source.parent
    files = list(files_below(source, (".xml",))) if source.is_dir() else [source]
    if len(files) != 1:
        raise DataError(f"{source}: expected one CVAT file (.xml), found {len(files)}. Name the file.")
    file = files[0]
    names: list[str] = []
    splits: dict[str, None] = {}
    total = 0
    for element in elements(file, root, ("label", "image", "track"), follow_links):  # a first look, for the classes
        if element.tag == "track":
            raise DataError(f"{file}: tracks of a video. Export it as 'CVAT for images 1.1'.")
        if element.tag == "label":
            if (name := child_text(element, "name")) and child_text(element, "type") not in ("points", "tag"):
                names.append(name.strip())
            continue
        total += 1
        splits[split_name(element.get("subset") or split)] = None
    if not total:
        raise DataError(f"{file}: no <image>; is it 'CVAT for images 1.1'? (Pascal VOC: --from voc)")
    pictures = _pictures(file, root, split, follow_links)
    return Source(root, pictures, tuple(splits), [Category(name) for name in dict.fromkeys(names)] or None, total)


def _pictures(file: Path, root: Path, split: str, follow_links: bool) -> Iterator[Picture]:
    for i, image in enumerate(elements(file, root, ("image",), follow_links)):
        place = f"{file}, image {(image.get('id') or str(i))[:40]}"
        picture = Picture(
            split_name(image.get("subset") or split), text(image.get("name"), place, "name"),
            size_or_none(image.get("width"), place, "width"), size_or_none(image.get("height"), place, "height"),
            [], place,
        )  # fmt: skip
        for j, shape in enumerate(image):
            where = f"{place}, shape {j + 1}"
            if shape.tag in ("points", "cuboid", "skeleton", "tag"):
                picture.dropped.append((f"<{shape.tag}>, which has no box", where))
            elif shape.tag in SHAPES:
                picture.boxes.append(_box(shape, where))
        yield picture


def _box(shape: Element, place: str) -> Box:
    name = text(shape.get("label"), place, "label").strip()

    def value(key: str) -> float:
        return number(shape.get(key), place, key)

    if shape.tag == "mask":
        return Box(value("left"), value("top"), value("width"), value("height"), name, place=place)
    if shape.tag in ("polygon", "polyline"):
        points = []
        for pair in (shape.get("points") or "").split(";"):
            x, comma, y = pair.partition(",")
            if not comma:
                raise DataError(f"{place}: points should be x,y;x,y;…, got {pair[:40]!r}.")
            points.append((number(x, place, "x"), number(y, place, "y")))
        return around(points, name, place)
    turn = math.radians(number(shape.get("rotation") or "0", place, "rotation"))
    if shape.tag == "ellipse":
        x, y, rx, ry = value("cx"), value("cy"), value("rx"), value("ry")
        half = (
            math.hypot(rx * math.cos(turn), ry * math.sin(turn)),
            math.hypot(rx * math.sin(turn), ry * math.cos(turn)),
        )
        return corners(x - half[0], y - half[1], x + half[0], y + half[1], name, place)
    x1, y1, x2, y2 = value("xtl"), value("ytl"), value("xbr"), value("ybr")
    if not turn:
        return corners(x1, y1, x2, y2, name, place)
    x, y, dx, dy = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    cos, sin = math.cos(turn), math.sin(turn)
    turned = [(x + a * dx * cos - b * dy * sin, y + a * dx * sin + b * dy * cos) for a in (-1, 1) for b in (-1, 1)]
    return around(turned, name, place)
