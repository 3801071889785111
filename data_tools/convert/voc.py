"""Pascal VOC XML, read and written.

VOC's own pixels are counted from 1 and `xmax` is the last pixel inside (`inclusive`: left = xmin − 1, width =
xmax − xmin + 1). LabelImg, CVAT, Roboflow and nearly all later tools write plain coordinates instead (`plain`:
left = xmin, width = xmax − xmin), and the COCO files made from VOC XML follow them. `plain` is the default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from data_tools.convert.annotation_files import Entry, ImageLocations, annotation_files, by_folders, entries
from data_tools.convert.records import (
    Box,
    Category,
    ImageRecord,
    Source,
    around,
    around_turned,
    corners,
    number,
    size_or_none,
    text,
)  # fmt: skip
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import in_order, train_last
from data_tools.convert.voc_lists import listed_files
from data_tools.convert.xml_stream import OtherXml, child_text
from data_tools.ledger import Ledger
from dfine_lib.data.images import DataError

Corners = Literal["plain", "inclusive"]


def read_voc(source: SourceFolder, *, voc_corners: Corners = "plain") -> Source:
    """Folders with `Annotations` and `ImageSets/Main`, one or several; without lists, all XML files of a folder.

    Without lists a folder named as a split is one (`train/`, `Annotations/val/`).
    """
    files = annotation_files(source, ".xml", "VOC annotation files")
    listed = listed_files(source, files) if source.path.is_dir() else None
    if listed is None:
        listed = by_folders(files, source)
    found = entries(listed, source.root)
    source.ledger.found(KIND, len(found))
    taken = {entry.file for entry in found}
    for file in files:
        if file not in taken:
            source.ledger.skip(KIND, "in no list that was taken", file)
    homes = list(dict.fromkeys([source.root, *(home for _, _, home in listed)]))
    splits = in_order(entry.split for entry in found)
    return Source(source.root, _records(source, found, voc_corners), splits, _label_list(source, homes), len(found))


def _label_list(source: SourceFolder, homes: list[Path]) -> list[Category] | None:
    """The classes of `labels.txt`, or of CVAT's `labelmap.txt` (`name:colour:parts:actions`)."""
    names: dict[str, None] = {}
    for file in (home / name for home in homes for name in ("labels.txt", "labelmap.txt")):
        if not file.is_file():
            continue
        for line, row in enumerate(source.text(file, 1 << 20).splitlines(), 1):
            name = row.strip()
            if file.name == "labelmap.txt":
                name = "" if name.startswith("#") else name.split(":")[0].strip()
                if name == "background":  # stands first in every such file, and is no class of objects
                    source.ledger.skip("classes", "background, which has no boxes", f"{file}, line {line}")
                    continue
            if name and name not in names:
                names[name] = None
                source.ledger.accept("classes")
    return [Category(name) for name in names] or None


def _records(source: SourceFolder, found: list[Entry], voc_corners: Corners) -> Iterator[ImageRecord]:
    places = ImageLocations(found, source.root)
    for entry in train_last(found, attrgetter("split")):
        try:
            record = _record(source, entry, places, voc_corners)
        except OtherXml as error:
            if source.path.is_file():
                raise
            kind = "CVAT's XML (--from cvat)" if error.tag == "annotations" else "no <annotation> in it"
            source.ledger.left_out(KIND, kind, entry.file)
            continue
        source.ledger.taken(KIND)
        yield record


def _record(source: SourceFolder, entry: Entry, places: ImageLocations, voc_corners: Corners) -> ImageRecord:
    location = str(entry.file)
    name, width, height, boxes, count = "", None, None, [], 0
    for element in source.xml(entry.file, "object", "size", "filename", outermost="annotation"):
        if element.tag == "object":
            count += 1
            boxes += _boxes(element, f"{location}, object {count}", voc_corners, source.ledger)
        elif element.tag == "size":
            width = size_or_none(child_text(element, "width"), location, "width")
            height = size_or_none(child_text(element, "height"), location, "height")
        else:
            name = (element.text or "").strip()
    return ImageRecord(entry.split, width=width, height=height, boxes=boxes, location=location, may_be_path=True,
                       **places.of(entry, name))  # fmt: skip


def _boxes(element: Element, location: str, voc_corners: Corners, ledger: Ledger) -> list[Box]:
    """The boxes of one object: of its <bndbox>, or around its turned box or outline; those of its parts are none."""
    if (child_text(element, "deleted") or "0").strip() == "1":  # LabelMe's web page keeps what was deleted
        ledger.skip("boxes", "an object that was deleted", location)
        return []
    flags = {key: (child_text(element, key) or "0").strip() not in ("0", "false", "False", "Unspecified")
             for key in ("difficult", "truncated", "iscrowd")}  # fmt: skip
    name = text(child_text(element, "name"), location, "<name>").strip()
    more: dict[str, Any] = {"crowd": flags.pop("iscrowd"), **flags}
    straight = [child for child in element.findall("bndbox") if len(child)]
    found = [_of_bndbox(child, name, location, voc_corners, _rotation(element, location), more) for child in straight]
    if not found:
        outlines = [child for tag in _OUTLINES for child in element.findall(tag) if len(child)]
        found = [_of_outline(child, name, location, more) for child in outlines[:1]]
    if not found:
        ledger.skip("boxes", "<object> without a box", location)
    return found


_OUTLINES = ("robndbox", "rotated_bndbox", "polygon", "points", "segmentation")


def _of_bndbox(
    element: Element, name: str, location: str, voc_corners: Corners, turn: float, more: dict[str, Any]
) -> Box:
    edges = [number(child_text(element, key), location, key) for key in ("xmin", "ymin", "xmax", "ymax")]
    if voc_corners == "inclusive":
        edges[0] -= 1
        edges[1] -= 1
    if turn:
        return around_turned(edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1], turn, name, location, **more)
    return corners(*edges, name, location, **more)


def _rotation(element: Element, location: str) -> float:
    """Radians; CVAT writes the box before it was turned, and the degrees as an attribute."""
    if (attributes := element.find("attributes")) is None:
        return 0.0
    for attribute in attributes.iterfind("attribute"):
        if (child_text(attribute, "name") or "").strip() == "rotation":
            return math.radians(number(child_text(attribute, "value") or "0", location, "rotation"))
    return 0.0


def _of_outline(element: Element, name: str, location: str, more: dict[str, Any]) -> Box:
    """The box around a turned box (`cx cy w h angle`, radians), or around points (`x1 y1 …`, or <pt>)."""
    if element.find("angle") is not None and element.find("cx") is not None:
        x, y, w, h, turn = (number(child_text(element, key), location, key) for key in ("cx", "cy", "w", "h", "angle"))
        if abs(turn) > 2 * math.pi:
            raise DataError(f"{location}: angle is {turn:g}; it should be in radians, within 0 and 2π. Convert it.")
        return around_turned(x - w / 2, y - h / 2, w, h, turn, name, location, **more)
    xs, ys = ([number(child.text, location, f"<{child.tag}>") for child in element.iter()
               if re.fullmatch(rf"{axis}(_?\w*)", child.tag) and not len(child)] for axis in "xy")  # fmt: skip
    if len(xs) != len(ys) or not xs:
        raise DataError(f"{location}: <{element.tag}> should have as many x as y, got {len(xs)} and {len(ys)}.")
    return around(zip(xs, ys, strict=True), name, location, notes=("outline: the box around it",), **more)


class VocWriter:
    """Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/SPLIT.txt, labels.txt."""

    def __init__(self, folder: Path, splits: tuple[str, ...], voc_corners: Corners = "plain"):
        self.folder, self.voc_corners = folder, voc_corners
        self.stems: dict[str, str] = {}
        (folder / "Annotations").mkdir(parents=True)
        sets = folder / "ImageSets" / "Main"
        sets.mkdir(parents=True)
        self.lists = {name: (sets / f"{name}.txt").open("w", encoding="utf-8") for name in splits}

    def image_path(self, image: ImageRecord) -> Path:
        """Where the image belongs, relative to the folder."""
        return Path("JPEGImages") / image.file_name

    def add(self, image: ImageRecord, labels: list[int]) -> list[tuple[str, str]]:
        """Write one image's XML. Returns what could not be kept: nothing."""
        stem = image.file_name.rpartition(".")[0] or image.file_name
        if self.stems.setdefault(stem, image.location) != image.location:
            raise DataError(
                f"{image.location}: VOC has one folder for all splits, and {stem[:80]!r} is there already, from "
                f"{self.stems[stem]}. Rename one of the images, or convert the splits into folders of their own."
            )
        file = self.folder / "Annotations" / f"{stem}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            "<annotation>",
            f"\t<filename>{_xml(image.file_name, image.location)}</filename>",
            f"\t<size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>",
            "\t<segmented>0</segmented>",
        ]
        for box in image.boxes:
            shift = 1 if self.voc_corners == "inclusive" else 0
            right, bottom = box.left + box.width, box.top + box.height
            edges = zip(("xmin", "ymin", "xmax", "ymax"), (box.left + shift, box.top + shift, right, bottom))
            crowd = "<iscrowd>1</iscrowd>" if box.crowd else ""
            difficult = int(box.difficult or box.ignore)
            rows += [
                f"\t<object><name>{_xml(box.name, box.location)}</name><pose>Unspecified</pose>"
                f"<truncated>{int(box.truncated)}</truncated><difficult>{difficult}</difficult>{crowd}",
                "\t\t<bndbox>" + "".join(f"<{key}>{value:.12g}</{key}>" for key, value in edges) + "</bndbox></object>",
            ]
        file.write_text("\n".join([*rows, "</annotation>", ""]), encoding="utf-8")
        self.lists[image.split].write(stem + "\n")
        return []

    def finish(self, categories: list[Category], order: list[int]) -> list[str]:
        """The list of classes in order; boxes name theirs, so that `order` is of no use. No remarks."""
        self.close()
        names = "".join(f"{category.name}\n" for category in categories)
        (self.folder / "labels.txt").write_text(names, encoding="utf-8")
        return []

    def close(self) -> None:
        for file in self.lists.values():
            file.close()


def _xml(value: str, location: str) -> str:
    if any(ord(c) < 32 and c not in "\t\n\r" for c in value):
        raise DataError(f"{location}: {value[:40]!r} holds characters that XML has no room for. Rename it.")
    return escape(value)
