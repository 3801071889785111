"""CVAT's XML: boxes, polygons, polylines, ellipses, masks; turned boxes by the box around them.

"CVAT for images" names its pictures. "CVAT for video" numbers its frames, of which CVAT's own export makes pictures
named `frame_000000.PNG`; the pictures are looked for under that name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from data_tools.convert.packed import BoxColumns
from data_tools.convert.records import (
    Box,
    Category,
    ImageRecord,
    Source,
    around,
    corners,
    files_below,
    number,
    size_or_none,
    text,
)  # fmt: skip
from data_tools.convert.splits import split_name
from data_tools.convert.xml_stream import child_text, elements
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

BOXLESS = ("points", "cuboid", "skeleton", "tag")
SHAPES = ("box", "polygon", "polyline", "ellipse", "mask", *BOXLESS)
MOST_FRAMES = 5_000_000


def read_cvat(source: Path, split: str, *, follow_links: bool = False, ledger: Ledger) -> Source:
    """One XML file, or a folder with one; `subset` of its images is the split."""
    root = source if source.is_dir() else source.parent
    files = list(files_below(source, (".xml",))) if source.is_dir() else [source]
    if len(files) != 1:
        raise DataError(f"{source}: expected one CVAT file (.xml), found {len(files)}. Name the file.")
    file = files[0]
    ledger.found("annotation files")
    ledger.taken("annotation files")
    names: list[str] = []
    splits: dict[str, None] = {}
    total, video = 0, _Video(file, ledger)
    kinds = ("label", "image", "track", *_Video.ABOUT)
    for element in elements(file, root, kinds, follow_links):  # a first look: classes, splits, tracks
        if element.tag == "track":
            video.add(element)
            continue
        if element.tag in _Video.ABOUT:
            video.about[element.tag] = (element.text or "").strip()
            continue
        if element.tag == "label":
            if (name := child_text(element, "name")) and child_text(element, "type") not in ("points", "tag"):
                names.append(name.strip())
            continue
        total += 1
        splits[split_name(element.get("subset") or split)] = None
    categories = [Category(name) for name in dict.fromkeys(names)] or None
    if not total and video.tracks:
        frames = video.frames()
        return Source(root, video.pictures(frames, split), (split,), categories, len(frames))
    if not total:
        raise DataError(f"{file}: no <image> and no <track>; is it CVAT's XML? (Pascal VOC: --from voc)")
    return Source(root, _pictures(file, root, split, follow_links, ledger), tuple(splits), categories, total)


def _pictures(file: Path, root: Path, split: str, follow_links: bool, ledger: Ledger) -> Iterator[ImageRecord]:
    for i, image in enumerate(elements(file, root, ("image",), follow_links)):
        location = f"{file}, image {(image.get('id') or str(i))[:40]}"
        picture = ImageRecord(
            split_name(image.get("subset") or split), text(image.get("name"), location, "name"),
            size_or_none(image.get("width"), location, "width"), size_or_none(image.get("height"), location, "height"),
            [], location,
        )  # fmt: skip
        for j, shape in enumerate(image):
            where = f"{location}, shape {j + 1}"
            if shape.tag in BOXLESS:
                ledger.skip("boxes", f"<{shape.tag}>, which has no box", where)
            elif shape.tag in SHAPES:
                picture.boxes.append(_box(shape, where))
        yield picture


class _Video:
    """Tracks, a shape a frame, sorted into frames."""

    ABOUT = ("width", "height", "start_frame", "stop_frame", "frame_filter")

    def __init__(self, file: Path, ledger: Ledger):
        self.file, self.tracks, self.ledger = file, 0, ledger
        self.about: dict[str, str] = {}
        self.labels: dict[str, int] = {}
        self.boxes = BoxColumns()

    def add(self, track: Element) -> None:
        location = f"{self.file}, track {self.tracks + 1}"
        name = text(track.get("label"), location, "label").strip()
        label = self.labels.setdefault(name, len(self.labels))
        self.tracks += 1
        for shape in track:
            if shape.tag not in SHAPES or shape.get("outside") == "1":  # the object has left the picture
                continue
            frame = _whole(shape.get("frame"), location, "frame")
            if shape.tag in BOXLESS:
                self.ledger.skip("boxes", f"<{shape.tag}>, which has no box", f"{location}, frame {frame}")
                continue
            shape.set("label", name)
            box = _box(shape, f"{location}, frame {frame}")
            self.boxes.add(frame, label, self.tracks, [box.left, box.top, box.width, box.height])

    def frames(self) -> list[int]:
        """Those with boxes, and those of the task that have none."""
        self.boxes.sort()
        found = self.boxes.keys()
        if self.about.get("stop_frame"):
            location, step = (
                str(self.file),
                re.fullmatch(r"step\s*=\s*([1-9]\d{0,6})", self.about.get("frame_filter", "")),
            )
            start, stop = (_whole(self.about.get(key) or "0", location, key) for key in ("start_frame", "stop_frame"))
            if stop - start > MOST_FRAMES:
                raise DataError(f"{location}: stop_frame is {stop:,}; more than {MOST_FRAMES:,} frames are no video.")
            found |= set(range(start, stop + 1, int(step[1]) if step else 1))
        return sorted(found)

    def pictures(self, frames: list[int], split: str) -> Iterator[ImageRecord]:
        names = list(self.labels)
        width, height = (size_or_none(self.about.get(key), str(self.file), key) for key in ("width", "height"))
        for frame in frames:
            location = f"{self.file}, frame {frame}"
            found = [Box(*values, names[label], location=f"{self.file}, track {track}, frame {frame}")
                     for label, track, values, *_ in self.boxes.of(frame)]  # fmt: skip
            yield ImageRecord(split, f"frame_{frame:06d}.png", width, height, found, location)


def _whole(value: str | None, location: str, what: str) -> int:
    found = number(value, location, what)
    if found < 0 or found != int(found):
        raise DataError(f"{location}: {what} should be a whole number from 0, got {found:g}.")
    return int(found)


def _box(shape: Element, location: str) -> Box:
    name = text(shape.get("label"), location, "label").strip()

    def value(key: str) -> float:
        return number(shape.get(key), location, key)

    if shape.tag == "mask":
        return Box(value("left"), value("top"), value("width"), value("height"), name, location=location)
    if shape.tag in ("polygon", "polyline"):
        points = []
        for pair in (shape.get("points") or "").split(";"):
            x, comma, y = pair.partition(",")
            if not comma:
                raise DataError(f"{location}: points should be x,y;x,y;…, got {pair[:40]!r}.")
            points.append((number(x, location, "x"), number(y, location, "y")))
        return around(points, name, location)
    turn = math.radians(number(shape.get("rotation") or "0", location, "rotation"))
    if shape.tag == "ellipse":
        x, y, rx, ry = value("cx"), value("cy"), value("rx"), value("ry")
        half = (
            math.hypot(rx * math.cos(turn), ry * math.sin(turn)),
            math.hypot(rx * math.sin(turn), ry * math.cos(turn)),
        )
        return corners(x - half[0], y - half[1], x + half[0], y + half[1], name, location)
    x1, y1, x2, y2 = value("xtl"), value("ytl"), value("xbr"), value("ybr")
    if not turn:
        return corners(x1, y1, x2, y2, name, location)
    x, y, dx, dy = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    cos, sin = math.cos(turn), math.sin(turn)
    turned = [(x + a * dx * cos - b * dy * sin, y + a * dx * sin + b * dy * cos) for a in (-1, 1) for b in (-1, 1)]
    return around(turned, name, location)
