"""COCO JSON, and what has its form (Objects365): read one record at a time, written as a folder for `dfine train`."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_tools.convert.json_stream import object_records
from data_tools.convert.packed import CROWD, DIFFICULT, TRUNCATED, BoxColumns
from data_tools.convert.records import (
    Box,
    Category,
    ImageRecord,
    Source,
    annotation_file,
    clean_name,
    files_below,
    leaves,
    numbers,
    size_or_none,
    text,
)  # fmt: skip
from data_tools.convert.splits import split_name
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

_Id = int | str


def read_coco_files(
    source: Path, split: str, *, follow_links: bool = False, progress: bool = False, ledger: Ledger
) -> Source:
    """One JSON file, or a folder with `instances_{split}.json`, `instances_{split}2017.json`, `zhiyuan_objv2_*.json`.

    The lists may stand in any order in the file. Memory holds the pictures' names and 73 bytes a box.
    """
    root = source if source.is_dir() else source.parent
    if root.name == "annotations" and source.is_file():
        root = root.parent
    files = _by_split(source, split)
    parts = {name: _File(annotation_file(file, root, follow_links), progress) for name, file in files.items()}
    categories: dict[str, Category] = {}
    taken: dict[int | None, str] = {}
    for part in parts.values():
        for category in part.categories.values():
            known = categories.setdefault(category.name, category)
            other = taken.setdefault(category.identity, category.name)
            if known.identity != category.identity or (category.identity is not None and other != category.name):
                raise DataError(
                    f"{part.file}: category {category.name!r} has id {category.identity}, and another split "
                    "differs. Make the lists of categories equal."
                )
    ledger.found("annotation files", len(parts))
    ledger.taken("annotation files", len(parts))
    for part in parts.values():
        part.count_lost(ledger)
    records = (record for name, part in parts.items() for record in part.records(name, ledger))
    return Source(
        root, records, tuple(parts), sorted(categories.values(), key=lambda found: (found.identity is None,
        found.identity or 0)), sum(len(part.images) for part in parts.values()),
    )  # fmt: skip


def _by_split(source: Path, split: str) -> dict[str, Path]:
    if source.is_file():
        return {split: source}
    found: dict[str, Path] = {}
    for file in files_below(source, (".json",)):
        stem = file.stem.lower().removeprefix("new_").removesuffix("_resized").removesuffix("2017")
        for start in ("instances_", "zhiyuan_objv2_"):
            if stem.startswith(start):
                name = split_name(stem.removeprefix(start))
                if name in found:
                    raise DataError(
                        f"{source}: two files for split {name}: {found[name]} and {file}. Give one of them."
                    )
                found[name] = file
    if not found:
        raise DataError(
            f"{source}: no annotations/instances_SPLIT.json and no zhiyuan_objv2_SPLIT.json. Name the JSON file "
            "itself, and the folder of its pictures with --images."
        )
    order = {"train": 0, "val": 1, "test": 2}
    if len(found) == 1 and not found.keys() & order.keys():  # CVAT's instances_default.json
        return {split: next(iter(found.values()))}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], 3), item[0])))


class _File:
    """What one file holds, after reading it once."""

    def __init__(self, file: Path, progress: bool = False):
        self.file = file
        self.images: dict[_Id, tuple[str, int | None, int | None]] = {}
        self.categories: dict[_Id, Category] = {}
        self.boxes = BoxColumns()
        self._texts: dict[str, int] = {}  # ids that are text, as negative numbers below any real one
        self._no_box: list[int] = []
        seen = set()
        for key, i, record in object_records(file, progress):
            seen.add(key)
            if key not in ("images", "annotations", "categories"):
                continue
            if i < 0:
                if record != []:
                    raise DataError(f"{file}: {key!r} should be a list. Is it a COCO instances file?")
                continue
            location = f"{file}, {key}[{i}]"
            if not isinstance(record, dict):
                raise DataError(f"{location}: expected an object.")
            getattr(self, f"_{key}")(record, location, i)
        if missing := [key for key in ("images", "annotations", "categories") if key not in seen]:
            raise DataError(f"{file}: no list {missing[0]!r}. Is it a COCO instances file?")
        self.boxes.sort()

    def _images(self, record: dict[str, Any], location: str, i: int) -> None:
        identity = _identity(record.get("id"), location, "'id'")
        if identity in self.images:
            raise DataError(f"{location}: a second image with id {identity!r}. Give every image an id of its own.")
        name = text(record.get("file_name"), location, "the file name")
        if not leaves(name.replace("\\", "/")):  # else a path of another machine: `--images` says where they lie here
            name = clean_name(name, location)
        width, height = (size_or_none(record.get(key), location, key) for key in ("width", "height"))
        self.images[identity] = name, width, height

    def _categories(self, record: dict[str, Any], location: str, i: int) -> None:
        identity = _identity(record.get("id"), location, "'id'")
        if identity in self.categories:
            raise DataError(f"{location}: a second category with id {identity!r}.")
        above = record.get("supercategory")
        self.categories[identity] = Category(
            text(record.get("name"), location, "'name'"), identity if isinstance(identity, int) else None,
            above if isinstance(above, str) else None,
        )  # fmt: skip

    def _annotations(self, record: dict[str, Any], location: str, i: int) -> None:
        bbox = record.get("bbox")
        if bbox is None or bbox == []:
            self._no_box.append(i)
            return
        flags = 0
        for key, flag in (("iscrowd", CROWD), ("ignore", CROWD), ("difficult", DIFFICULT), ("truncated", TRUNCATED)):
            if (value := record.get(key)) not in (None, 0, False):
                if value not in (1, True):
                    raise DataError(f"{location}: {key!r} should be 0 or 1, got {repr(value)[:30]}.")
                flags |= flag
        area = record.get("area")
        if area is not None and not (isinstance(area, int | float) and 0 <= area <= 1e14):
            area = None  # of no use; that of the box is taken
        identity = record.get("id")
        good = type(identity) is int and 0 <= identity < 2**62
        self.boxes.add(
            self._key(_identity(record.get("image_id"), location, "'image_id'")),
            self._key(_identity(record.get("category_id"), location, "'category_id'")),
            i, numbers(bbox, 4, location, "'bbox'"), flags, None if area is None else float(area),
            identity if good else None,
        )  # fmt: skip

    def _key(self, identity: _Id) -> int:
        if isinstance(identity, int):
            return identity
        return self._texts.setdefault(identity, -(2**62) - len(self._texts))

    def count_lost(self, ledger: Ledger) -> None:
        """Count the annotations that belong to no image."""
        known = {self._key(identity) for identity in self.images}
        lost = self.boxes.keys() - known
        for i in self._no_box:
            ledger.skip("boxes", "no bbox", f"{self.file}, annotations[{i}]")
        for key in sorted(lost):
            for _, location, *_ in self.boxes.of(key):
                ledger.skip("boxes", "its image is not listed", f"{self.file}, annotations[{location}]")

    def records(self, split: str, ledger: Ledger) -> Iterator[ImageRecord]:
        """In the file's order."""
        names = {self._key(identity): category.name for identity, category in self.categories.items()}
        for identity, (name, width, height) in self.images.items():
            picture = ImageRecord(split, name, width, height, [], f"{self.file}, image id {identity}",
                              identity=identity if isinstance(identity, int) else None,
                              folders=(self.file.parent,), may_be_path=True)  # fmt: skip
            for label, at, values, flags, area, own in self.boxes.of(self._key(identity)):
                location = f"{self.file}, annotations[{at}]"
                if label not in names:
                    ledger.skip("boxes", "its category is not listed", location)
                    continue
                picture.boxes.append(Box(
                    *values, names[label], bool(flags & CROWD), bool(flags & DIFFICULT), bool(flags & TRUNCATED), area,
                    own, location,
                ))  # fmt: skip
            yield picture


def _identity(value: Any, location: str, what: str) -> _Id:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and 0 <= value < 2**62:
        return value
    if isinstance(value, str) and 0 < len(value) <= 500:
        return text(value, location, what)
    if isinstance(value, int):
        raise DataError(f"{location}: {what} should be a whole number from 0 to 2**62, got another.")
    raise DataError(f"{location}: {what} should be a whole number or text, got {repr(value)[:40]}.")


class CocoWriter:
    """annotations/instances_SPLIT.json with images/SPLIT/. Records go to disk as they come.

    Ids of images and boxes are kept where all of a split are whole numbers and none occurs twice; else they are
    counted from 1. Categories may still be unknown while boxes come: their ids are put in at the end.
    """

    def __init__(self, folder: Path, splits: tuple[str, ...]):
        self.folder = folder
        self.parts = {name: _Part(folder, name) for name in splits}
        for name in splits:
            (folder / "images" / name).mkdir(parents=True)

    def image_path(self, picture: ImageRecord) -> Path:
        """Where the image belongs, relative to the folder."""
        return Path("images") / picture.split / picture.file_name

    def add(self, picture: ImageRecord, labels: list[int]) -> list[tuple[str, str]]:
        """Write one picture and its boxes; `labels` are places in the list of categories. Returns what was lost."""
        self.parts[picture.split].add(picture, labels)
        return []

    def finish(self, categories: list[Category], order: list[int]) -> list[str]:
        """Put the files together; `order[label]` is the location of a label in `categories`. Returns remarks."""
        remarks = []
        ids = category_ids(categories)
        for part in self.parts.values():
            remarks += part.finish(categories, [ids[location] for location in order])
        return remarks

    def close(self) -> None:
        for part in self.parts.values():
            part.close()


class _Part:
    def __init__(self, folder: Path, split: str):
        self.target = folder / "annotations" / f"instances_{split}.json"
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.split = split
        self.spools: list[IO[str]] = [
            (self.target.parent / f".{split}.{kind}").open("w+", encoding="utf-8") for kind in ("images", "boxes")
        ]
        self.images = self.boxes = 0
        self.some_had_ids = False
        self.image_ids, self.box_ids = array("q"), array("q")  # -1: none told

    def add(self, picture: ImageRecord, labels: list[int]) -> None:
        self.images += 1
        self.some_had_ids |= picture.identity is not None
        own = -1 if picture.identity is None else picture.identity
        self.image_ids.append(own)
        rest = json.dumps({"file_name": picture.file_name, "width": picture.width, "height": picture.height})[1:]
        self.spools[0].write(f"{self.images} {own} {rest}\n")
        for box, label in zip(picture.boxes, labels, strict=True):
            self.boxes += 1
            values: dict[str, Any] = {
                "bbox": [_short(value) for value in (box.left, box.top, box.width, box.height)],
                "area": _short(box.width * box.height if box.area is None else box.area),
                "iscrowd": int(box.crowd),
            }
            if box.difficult:
                values["difficult"] = 1
            if box.truncated:
                values["truncated"] = 1
            identity = -1 if box.identity is None else box.identity
            self.box_ids.append(identity)
            rest = json.dumps(values, allow_nan=False)[1:]
            self.spools[1].write(f"{self.boxes} {identity} {self.images} {own} {label} {rest}\n")

    def finish(self, categories: list[Category], ids: list[int]) -> list[str]:
        listed = [
            {"id": identity, "name": category.name}
            | ({} if category.supercategory is None else {"supercategory": category.supercategory})
            for identity, category in zip(category_ids(categories), categories, strict=True)
        ]
        keep_images, keep_boxes = _all_told_once(self.image_ids), _all_told_once(self.box_ids)
        with self.target.open("w", encoding="utf-8") as out:
            out.write(
                '{"info": {"description": "made by dfine data convert"},\n"categories": '
                + json.dumps(listed)
                + ',\n"images": ['
            )
            for row in self._rows(0):
                count, own, rest = row.split(" ", 2)
                out.write(f'{"" if count == "1" else ","}\n{{"id": {own if keep_images else count}, {rest.rstrip()}')
            out.write('],\n"annotations": [')
            for row in self._rows(1):
                count, own, image, image_own, label, rest = row.split(" ", 5)
                out.write(
                    f'{"" if count == "1" else ","}\n{{"id": {own if keep_boxes else count}, '
                    f'"image_id": {image_own if keep_images else image}, "category_id": {ids[int(label)]}, '
                    + rest.rstrip()
                )
            out.write("]}\n")
        self.close()
        told = self.some_had_ids and not keep_images
        return [f"{self.split}: images renumbered, their ids were not whole numbers or occurred twice"] if told else []

    def _rows(self, which: int) -> IO[str]:
        self.spools[which].seek(0)
        return self.spools[which]

    def close(self) -> None:
        for spool in self.spools:
            spool.close()
            Path(spool.name).unlink(missing_ok=True)


def _all_told_once(ids: array[int]) -> bool:
    values = np.unique(np.frombuffer(ids, np.int64)) if len(ids) else np.zeros(0, np.int64)
    return len(values) == len(ids) and not (values < 0).any()


def _short(value: float) -> float | int:
    """Whole numbers without a point, others to 1e-9 px: what is left of dividing and multiplying goes."""
    value = round(float(value), 9)
    return int(value) if value.is_integer() else value


def category_ids(categories: list[Category]) -> list[int]:
    """The ids that are written: the list's own if each has one, else 1, 2, 3 …"""
    own = [category.identity for category in categories]
    if None not in own and len(set(own)) == len(own):
        return [identity for identity in own if identity is not None]
    return list(range(1, len(categories) + 1))
