"""What one COCO file holds: read once, record by record; memory holds the images' names and 73 bytes a box."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from data_tools.box_writing import writing_of
from data_tools.convert.coco_layouts import spare_names
from data_tools.convert.json_kinds import kind_of_list, kind_of_object
from data_tools.convert.json_stream import first_character, list_records, object_records
from data_tools.convert.packed import CROWD, DIFFICULT, IGNORE, OUTLINED, TRUNCATED, BoxColumns
from data_tools.convert.records import (
    LARGEST,
    Box,
    Category,
    ImageRecord,
    clean_name,
    leaves,
    number,
    numbers,
    size_or_none,
    text,
)
from data_tools.convert.segmentation import box_around
from data_tools.ledger import Ledger
from dfine_lib.data.coco_columns import short
from dfine_lib.data.images import DataError

FROM_OUTLINE = "box made from the outline, there was no bbox"
_LISTS = ("images", "annotations", "categories")
_FLAGS = (("iscrowd", CROWD), ("ignore", IGNORE), ("difficult", DIFFICULT), ("truncated", TRUNCATED))
_MEANINGS = {"0": False, "1": True, "false": False, "true": True}
_CAPTION = "a caption, which has no box"
_NUMBERS = {int, float}
_Id = int | str


class NotCoco(DataError):
    """A JSON file of another kind; `kind` and `way_out` in a few words."""

    def __init__(self, file: Path, kind: str, way_out: str = ""):
        super().__init__(f"{file}: {kind}.{' ' if way_out else ''}{way_out}{'.' if way_out else ''}")
        self.kind, self.way_out = kind, way_out


class CocoFile:
    """One file.

    Raises:
        NotCoco: it is valid JSON of another kind.
        DataError: it is no JSON, or a record is not what it should be.
    """

    def __init__(self, file: Path, progress: bool = False):
        self.file, self._name = file, str(file)
        self.images: dict[_Id, tuple[str, int | None, int | None]] = {}
        self.categories: dict[_Id, Category] = {}
        self.boxes = BoxColumns()
        self.is_panoptic = False
        self.stuff: set[int] = set()  # keys of the categories that are no things, if the file is panoptic
        self._texts: dict[str, int] = {}  # ids that are text, as negative numbers below any real one
        self._no_box: list[tuple[int, str]] = []
        self._no_list: list[str] = []  # keys of COCO that hold no list
        self._check_kind(self._read(progress))
        if self.is_panoptic:
            self.categories = {identity: category for identity, category in self.categories.items()
                               if self._key(identity) not in self.stuff}  # fmt: skip
        self.boxes.sort()

    def _read(self, progress: bool) -> tuple[list[str], list[str]]:
        """Take all records. Returns the keys of the object, and those of the first object in it that is in no list."""
        if first_character(self.file) == "[":
            first = next((record for _, record in list_records(self.file)), None)
            raise NotCoco(self.file, *kind_of_list(first if isinstance(first, dict) else None))
        take = {"images": self._image, "annotations": self._annotation, "categories": self._category}
        seen: dict[str, None] = {}
        inside: list[str] = []
        for key, i, record in object_records(self.file, progress):
            seen[key] = None
            if i < 0 and isinstance(record, dict):
                inside = inside or list(record)
            if key not in take:
                continue
            if i < 0:
                self._no_list += [key] if record != [] else []
            elif isinstance(record, dict):
                take[key](record, i)
            else:
                raise DataError(f"{self.at(key, i)}: expected an object.")
        return list(seen), inside

    def _check_kind(self, seen: tuple[list[str], list[str]]) -> None:
        keys, inside = seen
        missing = [key for key in _LISTS if key not in keys]
        if not missing and not self._no_list:
            if self._no_box and not len(self.boxes) and all(reason == _CAPTION for _, reason in self._no_box):
                raise NotCoco(self.file, "captions, no boxes", "Name a file of instances")
            return
        if (kind := kind_of_object(keys, inside)) is not None:
            raise NotCoco(self.file, *kind)
        if self._no_box and self._no_box[0][1] == _CAPTION:
            raise NotCoco(self.file, "captions, no boxes", "Name a file of instances")
        if missing == ["annotations"]:
            raise NotCoco(self.file, "a list of images without annotations", "Name a file that has them")
        if self._no_list:
            raise DataError(f"{self.file}: {self._no_list[0]!r} should be a list. Is it a COCO instances file?")
        found = ", ".join(short(key, 30) for key in keys[:6]) or "none"
        raise NotCoco(self.file, f"no list {missing[0]!r} (keys: {found}), so no COCO file")

    def at(self, key: str, i: int) -> str:
        """Location of a record."""
        return f"{self._name}, {key}[{i}]"

    # ---- records -------------------------------------------------------------------------------------------------

    def _image(self, record: dict[str, Any], i: int) -> None:
        location = self.at("images", i)
        identity = _identity(record.get("id"), location, "'id'")
        if identity in self.images:
            raise DataError(f"{location}: a second image with id {identity!r}. Give every image an id of its own.")
        name = record.get("file_name")
        if name is None and isinstance(address := record.get("coco_url"), str):  # LVIS
            name = "/".join(unquote(urlsplit(address).path).split("/")[-2:])
        name = text(name, location, "the file name")
        if not leaves(name.replace("\\", "/")):  # else a path of another machine: `--images` says where they lie here
            name = clean_name(name, location)
        width, height = record.get("width"), record.get("height")
        if type(width) is not int or type(height) is not int or not (0 < width < LARGEST and 0 < height < LARGEST):
            width, height = size_or_none(width, location, "width"), size_or_none(height, location, "height")
        self.images[identity] = name, width, height

    def _category(self, record: dict[str, Any], i: int) -> None:
        location = self.at("categories", i)
        identity = _identity(record.get("id"), location, "'id'")
        if identity in self.categories:
            raise DataError(
                f"{location}: a second category with id {identity!r}. Give every category an id of its own."
            )
        above = record.get("supercategory")
        self.categories[identity] = Category(
            text(record.get("name"), location, "'name'"), identity if isinstance(identity, int) else None,
            above if isinstance(above, str) else None,
        )  # fmt: skip
        if record.get("isthing") in (0, False) and "isthing" in record:
            self.stuff.add(self._key(identity))

    def _annotation(self, record: dict[str, Any], i: int, segment: dict[str, Any] | None = None) -> None:
        own = record if segment is None else segment
        bbox, flags = own.get("bbox"), 0
        if bbox is None or bbox == []:
            if segment is None and isinstance(segments := record.get("segments_info"), list):
                self.is_panoptic = True
                for one in segments:
                    if not isinstance(one, dict):
                        raise DataError(f"{self.at('annotations', i)}: 'segments_info' should hold objects.")
                    self._annotation(record, i, one)
                return
            bbox, flags = box_around(own.get("segmentation"), self.at("annotations", i)), OUTLINED
            if bbox is None:
                self._no_box.append((i, _CAPTION if "caption" in own else "no bbox"))
                return
        elif not _is_plain(bbox):
            bbox = numbers(bbox, 4, self.at("annotations", i), "'bbox'")
        for key, flag in _FLAGS:
            if (value := own.get(key)) and self._is_set(value, key, i):
                flags |= flag
        identity = own.get("id") if segment is None else None
        self.boxes.add(
            self._key(self._id(record.get("image_id"), i, "image_id")),
            self._key(self._id(own.get("category_id"), i, "category_id")), i, bbox, flags, _area(own.get("area")),
            identity if type(identity) is int and 0 <= identity < 2**62 else None,
        )  # fmt: skip

    def _is_set(self, value: Any, key: str, i: int) -> bool:
        found = _MEANINGS.get(str(value).strip().lower()) if isinstance(value, str | int) else None
        if found is None:
            raise DataError(f"{self.at('annotations', i)}: {key!r} should be 0 or 1, got {repr(value)[:30]}.")
        return found

    def _id(self, value: Any, i: int, what: str) -> _Id:
        if type(value) is int and 0 <= value < 2**62:
            return value
        return _identity(value, self.at("annotations", i), f"{what!r}")

    def _key(self, identity: _Id) -> int:
        if isinstance(identity, int):
            return identity
        return self._texts.setdefault(identity, -(2**62) - len(self._texts))

    # ---- what comes of them --------------------------------------------------------------------------------------

    def used_categories(self) -> set[_Id]:
        """Ids of the categories that have boxes."""
        labels = set(np.unique(np.frombuffer(self.boxes.labels, np.int64)).tolist()) if len(self.boxes) else set()
        return {identity for identity in self.categories if self._key(identity) in labels}

    def writing(self) -> str | None:
        """How boxes are written where it is not [left, top, width, height]; see `writing_of`."""
        sizes = {self._key(identity): (width, height) for identity, (_, width, height) in self.images.items()
                 if width and height}  # fmt: skip
        if not sizes or not len(self.boxes):
            return None
        keys = np.array(sorted(sizes), np.int64)
        wanted = np.frombuffer(self.boxes.images, np.int64)
        at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        known = keys[at] == wanted
        boxes = np.frombuffer(self.boxes.numbers, np.float64).reshape(-1, 5)[known, :4]
        return writing_of(boxes, np.array([sizes[key] for key in keys.tolist()], float)[at[known]])

    def count_lost(self, ledger: Ledger) -> None:
        """Count the annotations that belong to no image, and those without a box."""
        known = {self._key(identity) for identity in self.images}
        lost = self.boxes.image_keys() - known
        for i, reason in self._no_box:
            ledger.skip("boxes", reason, self.at("annotations", i))
        for key in sorted(lost):
            for _, i, *_ in self.boxes.of(key):
                ledger.skip("boxes", "its image is not listed", self.at("annotations", i))

    def records(self, split: str, ledger: Ledger) -> Iterator[ImageRecord]:
        """In the file's order.

        Args:
            split: of the records.
            ledger: takes the boxes that are left out.
        """
        names = {self._key(identity): category.name for identity, category in self.categories.items()}
        folders = (self.file.parent, self.file.parent / "data")  # Roboflow, FiftyOne
        start = f"{self._name}, annotations["
        for identity, (name, width, height) in self.images.items():
            image = ImageRecord(
                split, name, width, height, [], f"{self._name}, image id {identity}",
                identity=identity if isinstance(identity, int) else None, folders=folders,
                spare_names=spare_names(name), may_be_path=True,
            )  # fmt: skip
            for label, at, values, flags, area, own in self.boxes.of(self._key(identity)):
                location = f"{start}{at}]"
                if label not in names:
                    stuff = label in self.stuff and self.is_panoptic
                    reason = "stuff of a panoptic file, no object" if stuff else "its category is not listed"
                    ledger.skip("boxes", reason, location)
                    continue
                image.boxes.append(Box(
                    *values, names[label], bool(flags & CROWD), bool(flags & IGNORE), bool(flags & DIFFICULT),
                    bool(flags & TRUNCATED), area, own, location, (FROM_OUTLINE,) if flags & OUTLINED else (),
                ))  # fmt: skip
            yield image


def _is_plain(bbox: Any) -> bool:
    """Whether it is four numbers, none of them too large; what is not plain is looked at one by one."""
    if type(bbox) is not list or len(bbox) != 4 or not _NUMBERS.issuperset(map(type, bbox)):
        return False
    return min(bbox) >= -LARGEST and max(bbox) <= LARGEST and abs(sum(bbox)) <= 4 * LARGEST  # NaN has no order


def _area(value: Any) -> float | None:
    """Pixels² of the outline; None where it is of no use, and that of the box is taken."""
    if isinstance(value, str):
        try:
            value = number(value, "", "'area'")
        except DataError:
            return None
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1e14 else None


def _identity(value: Any, location: str, what: str) -> _Id:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and 0 <= value < 2**62:
        return value
    if isinstance(value, str) and 0 < len(value) <= 500:
        if value.isascii() and value.isdecimal() and len(value) < 19 and str(int(value)) == value:
            return int(value)  # written as text in one list and as a number in the other, it is the same id
        return text(value, location, what)
    if isinstance(value, int):
        raise DataError(f"{location}: {what} should be a whole number from 0 to 2**62, got another.")
    raise DataError(f"{location}: {what} should be a whole number or text, got {repr(value)[:40]}.")
