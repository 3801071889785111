"""Records to a folder in COCO format, as `dfine train` takes it, one at a time."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import IO

import numpy as np

from data_tools.convert.records import Category, ImageRecord


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

    def image_path(self, image: ImageRecord) -> Path:
        """Where the image belongs, relative to the folder."""
        return Path("images") / image.split / image.file_name

    def add(self, image: ImageRecord, labels: list[int]) -> list[tuple[str, str]]:
        """Write one image and its boxes; `labels` are positions in the list of categories. Returns what was lost."""
        self.parts[image.split].add(image, labels)
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
        self.image_ids, self.box_ids = array("q"), array("q")  # -1: none given

    def add(self, image: ImageRecord, labels: list[int]) -> None:
        self.images += 1
        self.some_had_ids |= image.identity is not None
        own = -1 if image.identity is None else image.identity
        self.image_ids.append(own)
        name = json.dumps(image.file_name)
        rest = f'"file_name": {name}, "width": {image.width}, "height": {image.height}}}'
        self.spools[0].write(f"{self.images} {own} {rest}\n")
        for box, label in zip(image.boxes, labels, strict=True):
            self.boxes += 1
            sides = f"{_short(box.left)}, {_short(box.top)}, {_short(box.width)}, {_short(box.height)}"
            area = _short(box.width * box.height if box.area is None else box.area)
            flags = ', "ignore": 1' if box.ignore else ""
            flags += ', "difficult": 1' if box.difficult else ""
            flags += ', "truncated": 1' if box.truncated else ""
            identity = -1 if box.identity is None else box.identity
            self.box_ids.append(identity)
            rest = f'"bbox": [{sides}], "area": {area}, "iscrowd": {int(box.crowd)}{flags}}}'
            self.spools[1].write(f"{self.boxes} {identity} {self.images} {own} {label} {rest}\n")

    def finish(self, categories: list[Category], ids: list[int]) -> list[str]:
        listed = [
            {"id": identity, "name": category.name}
            | ({} if category.supercategory is None else {"supercategory": category.supercategory})
            for identity, category in zip(category_ids(categories), categories, strict=True)
        ]
        keep_images, keep_boxes = _all_once(self.image_ids), _all_once(self.box_ids)
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
        lost = [("images", self.some_had_ids and not keep_images),
                ("boxes", not keep_boxes and bool((np.frombuffer(self.box_ids, np.int64) >= 0).any()))]  # fmt: skip
        return [f"{self.split}: {what} renumbered, their ids were not whole numbers or occurred twice"
                for what, renumbered in lost if renumbered]  # fmt: skip

    def _rows(self, which: int) -> IO[str]:
        self.spools[which].seek(0)
        return self.spools[which]

    def close(self) -> None:
        for spool in self.spools:
            spool.close()
            Path(spool.name).unlink(missing_ok=True)


def _all_once(ids: array[int]) -> bool:
    values = np.unique(np.frombuffer(ids, np.int64)) if len(ids) else np.zeros(0, np.int64)
    return len(values) == len(ids) and not (values < 0).any()


def _short(value: float) -> float | int:
    """Whole numbers without a point, others to 1e-9 px: what is left of dividing and multiplying goes.

    As text it is JSON, since boxes are finite (`Conversion` has cut or refused what is not).
    """
    value = round(float(value), 9)
    return int(value) if value.is_integer() else value


def category_ids(categories: list[Category]) -> list[int]:
    """The ids that are written: the list's own if each has one, else 1, 2, 3 …"""
    own = [category.identity for category in categories]
    if None not in own and len(set(own)) == len(own):
        return [identity for identity in own if identity is not None]
    return list(range(1, len(categories) + 1))
