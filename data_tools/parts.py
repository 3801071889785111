"""Splits of a COCO folder with all keys of their records, read for the tools that write another folder of them."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_tools.convert.image_files import ImageFiles
from data_tools.convert.records import LARGEST, ImageRecord, number, size_or_none
from data_tools.large.tars import SHARD_INDEX
from dfine_lib.data.coco import find_split
from dfine_lib.data.coco_checks import check_lists, raise_first
from dfine_lib.data.coco_columns import TABLES, CocoColumns, read_json, short, where
from dfine_lib.errors import DataError

logger = logging.getLogger(__name__)

_IDS = {f"{one}_id_{what}" for one in TABLES.values() for what in ("invalid", "repeated")}
_IDS |= {"annotation_orphan", "category_unknown"}
SPLITS = ("train", "val", "test")
Record = dict[str, Any]


@dataclass
class Part:
    """One annotation file and the folder of its images."""

    file: Path
    folder: Path
    content: Record  # what else the file holds
    images: list[Record]
    annotations: list[Record]
    categories: list[Record]

    def with_images(self, images: list[Record]) -> Part:
        """Only these images, and their annotations."""
        kept = {image["id"] for image in images}
        own = [record for record in self.annotations if record["image_id"] in kept]
        return Part(self.file, self.folder, self.content, images, own, self.categories)


def read_part(file: Path, folder: Path) -> Part:
    """Read one annotation file; ids are checked to be whole, unique, and known where they are referred to."""
    columns = CocoColumns(file, read_json(file))
    check_lists(columns)
    raise_first(columns, names=_IDS)
    images, annotations, categories = columns.images, columns.annotations, columns.categories
    for image in images:
        _check_size(file, image)
    for record in annotations:
        _check_box(file, record)
    _check_names(file, categories)
    rest = {key: value for key, value in columns.content.items() if key not in ("images", "annotations", "categories")}
    return Part(file, folder, rest, images, annotations, categories)


def _check_box(file: Path, record: Record) -> None:
    """A `bbox` is four numbers; one that is missing, null or empty is passed on: there may be an outline instead."""
    box = record.get("bbox")
    if box is None or box == []:
        return
    place = f"{file}: annotation id {record['id']}"
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{place}: 'bbox' should be 4 numbers, got {short(box)}. Correct or remove it.")
    if all(type(v) in (int, float) and -LARGEST <= v <= LARGEST for v in box):
        return
    for value in box:
        number(value, place, "a number of bbox")
        if isinstance(value, str):
            raise DataError(f"{place}: a number of bbox is text, {short(value)}. Write it without quotation marks.")


def _check_names(file: Path, categories: list[Record]) -> None:
    ids: dict[str, Any] = {}
    for i, category in enumerate(categories):
        name, place = category.get("name"), f"{file}: {where('categories', categories, i)}"
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{place}: 'name' should be text, got {short(name)}. Give every category a name of its own."
            )
        if name in ids:
            raise DataError(
                f"{place}: {short(name)} is the name of category id {ids[name]} too. Give every category a name of its "
                "own."
            )
        ids[name] = category["id"]


def _check_size(file: Path, image: Record) -> None:
    place = f"{file}: image id {image['id']}"
    width, height = (size_or_none(image.get(key), place, key) for key in ("width", "height"))
    if width and height and width * height > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
        raise DataError(f"{place}: {width} x {height} pixels are more than can be decoded safely. Leave it out.")


def read_parts(source: Path, images: Path | None = None) -> dict[str, Part]:
    """The splits of a data folder; or one annotation file and the folder of its images, which is `train`.

    With `images` given, images are found as `dfine data convert` finds them (`C:\\Users\\me\\a.jpg`: `a.jpg`).
    """
    if source.is_file() and images is not None:
        part = read_part(source, images)
        _find_images(part)
        return {"train": part}
    found, missing = {}, None
    for split in (*SPLITS, *_other_splits(source)):
        try:
            paths = find_split(source, split)
        except DataError as error:
            _stop_at_half_a_split(source, split, error)
            missing = missing or error
            continue
        no_shards(paths[1])
        found[split] = read_part(*paths)
    if missing is not None and not found:
        raise missing
    return found


def _find_images(part: Part) -> None:
    """Give every record the name of its image in the folder, by the rule of `dfine data convert`; see `ImageFiles`.

    A record without an image keeps its name.
    """
    files = ImageFiles(part.folder, part.folder, None, follow_links=True)  # links are looked at when images are brought
    count, example = 0, ""
    for i, image in enumerate(part.images):
        name = image.get("file_name")
        if not isinstance(name, str) or not name.strip():
            continue
        place = f"{part.file}, image id {image['id']}"
        found = files.find(ImageRecord("train", name, None, None, [], place, may_be_path=True))
        if isinstance(found, str):
            continue
        below = found.path.relative_to(part.folder).as_posix()
        if below != name and below != "/".join(word for word in name.replace("\\", "/").split("/") if word):
            part.images[i] = {**image, "file_name": below}
            count, example = count + 1, example or name
    if count:
        logger.info("%s: %d images found under another name than the file gives, as %r", part.file, count, example)


def _other_splits(source: Path) -> list[str]:
    """Names of splits that a folder, or the JSON file in its place, has beyond train, val and test."""
    if source.suffix == ".json":
        named = read_json(source).items()
        found = [key for key, place in named if isinstance(place, dict) and place.keys() >= {"annotations", "images"}]
    else:
        stems = [file.stem for file in sorted((source / "annotations").glob("instances_*.json"))]
        found = [stem.removeprefix("instances_") for stem in stems]
    return [name for name in found if name not in SPLITS and name.removesuffix("2017") not in SPLITS]


def _stop_at_half_a_split(source: Path, split: str, error: DataError) -> None:
    """A split that is named but not whole is not passed over: what is made would lack it."""
    if source.suffix == ".json":
        if split in read_json(source):
            raise error
        return
    for name, folder in (
        (f"instances_{split}.json", f"images/{split}"),
        (f"instances_{split}2017.json", f"{split}2017"),
    ):
        file = source / "annotations" / name
        if not os.path.lexists(file):
            continue
        if not file.is_file():
            raise DataError(
                f"{file}: no file that can be read (a folder, a pipe, a broken link). Replace or remove it."
            )
        raise DataError(
            f"{file}: there is no folder {source / folder} for its images. Make it, or move the file elsewhere."
        )


def no_shards(folder: Path) -> None:
    """`DataError` where the images lie in tars: this is for folders of images."""
    if (folder / SHARD_INDEX).is_file():
        raise DataError(f"{folder}: its images lie in shards. Give the data folder that they were made of.")
