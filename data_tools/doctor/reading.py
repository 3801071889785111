"""An annotation file as columns, whatever is in it: nothing here raises about the content of a file.

The columns are those that training reads (`dfine_lib.data.coco_columns`), which stops at the first error. Here ids and
numbers written as text, segments of panoptic files and outlines without a box are read too, and the checks say so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.convert.records import LARGEST, number
from data_tools.convert.segmentation import box_around
from data_tools.layouts import with_hint
from dfine_lib.data import coco_columns
from dfine_lib.data.coco import find_split
from dfine_lib.data.coco_columns import CocoColumns, Key, objects_of, read_json
from dfine_lib.errors import DataError

if TYPE_CHECKING:
    from data_tools.convert.image_files import Found
    from data_tools.doctor.pixels import ImageFile
    from data_tools.image_frames import Placement

MEMORY_PER_BYTE = 10  # a byte of JSON text, parsed and in columns; measured: 9 at 700,000 boxes


def shown(value: Any, most: int = 60) -> str:
    """The value as Python writes it, cut; never long to make, however large the value."""
    if isinstance(value, str):
        value = value[:most]
    elif isinstance(value, list | tuple):
        return "[" + ", ".join(shown(one, 24) for one in value[:6]) + (", …]" if len(value) > 6 else "]")
    elif isinstance(value, dict):
        return f"an object of {len(value)} keys"
    elif type(value) is int and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def key_of(value: Any) -> Key:
    """What an id means: a whole number (also as 12.0 or "12"), other text, or None for anything else."""
    if not isinstance(value, str):
        return coco_columns.key_of(value)
    text = value.strip()
    if text.lstrip("-").isdecimal() and text.isascii() and len(text) < 19:
        return int(text) if text.count("-") <= 1 else text
    return text or None


def _plain(name: Any) -> str:
    return shown(name)[1:-1] if isinstance(name, str) else "no file name"


def _from_text(value: Any) -> float:
    """A number written as text, NaN for anything else."""
    try:
        return number(value, "", "") if isinstance(value, str) else float("nan")
    except DataError:
        return float("nan")


def _of_segments(annotations: list[dict[str, Any]], categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The segments of a panoptic file as annotations, those of stuff left out; the same list where there are none."""
    panoptic = [isinstance(record.get("segments_info"), list) and not record.get("bbox") for record in annotations]
    if not any(panoptic):
        return annotations
    stuff = {key_of(one.get("id")) for one in categories if one.get("isthing", 1) in (0, False)}
    found: list[dict[str, Any]] = []
    for record, is_panoptic in zip(annotations, panoptic, strict=True):
        segments = [one for one in record["segments_info"] if type(one) is dict] if is_panoptic else [record]
        for segment in segments:
            if not is_panoptic or key_of(segment.get("category_id")) not in stuff:
                found.append({**segment, "id": len(found) + 1, "image_id": record.get("image_id")})
    return found


def _from_outlines(annotations: Sequence[dict[str, Any]], boxes_xywh: np.ndarray) -> list[int]:
    """Fill in the boxes around outlines where there is no bbox; returns their places."""
    made = []
    for i in np.flatnonzero(np.isnan(boxes_xywh).any(1)).tolist():
        if annotations[i].get("bbox") in (None, []) and annotations[i].get("segmentation"):
            try:
                box = box_around(annotations[i]["segmentation"], "")
            except DataError:
                continue
            if box is not None:
                boxes_xywh[i] = box
                made.append(i)
    return made


class Split(CocoColumns):
    """The columns of a split, and what the checks find out about its images. Numbers written as text are read too."""

    def __init__(self, name: str, annotation_file: Path, content: dict[str, Any], image_folder: Path | None) -> None:
        as_written, categories = objects_of(content, "annotations"), objects_of(content, "categories")
        annotations = _of_segments(as_written, categories)
        self.is_panoptic = annotations is not as_written  # `annotations` are the segments of a panoptic file
        super().__init__(annotation_file, content | {"annotations": annotations} if self.is_panoptic else content)
        self.name, self.content, self.image_folder = name, content, image_folder
        self.outlined = _from_outlines(self.annotations, self.boxes_xywh)  # places of annotations whose box was made
        self.files: list[ImageFile | None] = [None] * len(self.images)  # what lies on the disk; None: not looked at
        self.found: dict[int, Found] = {}  # image → its file, found otherwise than under its name
        # Image → how its boxes get into the upright image, where they are not in its pixels yet; None: the annotation
        # is not of this image.
        self.placements: dict[int, Placement | None] = {}

    key, number = staticmethod(key_of), staticmethod(_from_text)

    @cached_property
    def _by_image(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.image_of, kind="stable")
        return order, np.searchsorted(self.image_of[order], np.arange(len(self.images) + 1))

    def rows_of(self, image: int) -> np.ndarray:
        """Places of the annotations of an image, in the file's order."""
        order, start = self._by_image
        return order[start[image] : start[image + 1]]

    def path(self, image: int) -> Path | None:
        """Where the image lies, or should lie; None where the name gives no safe path."""
        if image in self.found:
            return self.found[image].path
        name = self.file_names[image]
        return None if name is None or self.image_folder is None else self.image_folder / name

    def image_words(self, image: int) -> str:
        """`train: image id 7 (a.jpg)`."""
        record = self.images[image]
        return f"{self.name}: image id {shown(record.get('id'))} ({_plain(record.get('file_name'))})"

    def annotation_words(self, row: int) -> str:
        """`train: annotation id 3 of image id 7 (a.jpg): bbox [...]`."""
        record, image = self.annotations[row], int(self.image_of[row])
        of = f"image id {shown(record.get('image_id'))}"
        if image >= 0:
            of += f" ({_plain(self.images[image].get('file_name'))})"
        return f"{self.name}: annotation id {shown(record.get('id'))} of {of}, bbox {shown(record.get('bbox'))}"

    @property
    def usable(self) -> np.ndarray:
        """bool `[M]`: the box has four finite numbers and an image of known size."""
        known = self.image_of >= 0
        sized = np.zeros(len(known), bool)
        sized[known] = np.isfinite(self.sizes_wh[self.image_of[known]]).all(1)
        return np.isfinite(self.boxes_xywh).all(1) & (np.abs(self.boxes_xywh) <= LARGEST).all(1) & sized

    def size_of(self, rows: np.ndarray) -> np.ndarray:
        """float64 `[rows, 2]`: width and height of the image that each annotation is of."""
        return self.sizes_wh[self.image_of[rows]]


def locate(data: Path, split: str) -> tuple[Path | None, Path | None, str]:
    """Annotation file and image folder of a split, each None where it is not there, and what is wrong in words.

    Raises:
        DataError: there is nothing at `data`.
    """
    if not data.exists():
        raise DataError(f"{data}: there is no such folder or file. Give the folder of the data set.")
    try:
        return *find_split(data, split), ""
    except DataError as error:
        message = with_hint(error)
    except OSError as error:
        return None, None, f"{data}: {error.strerror or error}"
    candidates = [(data / "annotations" / f"instances_{split}{year}.json", folder) for year, folder in (
        ("", data / "images" / split), ("2017", data / f"{split}2017"))]  # fmt: skip
    if data.is_file():
        try:
            named = read_json(data).get(split)
            candidates = [(data.parent / named["annotations"], data.parent / str(named.get("images")))]
        except (DataError, TypeError, KeyError, AttributeError):
            return None, None, message
    for file, folder in candidates:
        if file.is_file():
            return file, folder if folder.is_dir() else None, message
    return None, None, message


def read_split(name: str, file: Path, folder: Path | None) -> Split:
    """Read one annotation file.

    Raises:
        DataError: it is missing, no JSON, no object, nested too deeply, or larger than the memory holds.
    """
    size, memory = file.stat().st_size, _memory_bytes()
    if size * MEMORY_PER_BYTE > memory:
        raise DataError(
            f"{file}: {size / 1e9:.1f} GB of JSON need about {size * MEMORY_PER_BYTE / 1e9:.0f} GB of memory, this "
            f"machine has {memory / 1e9:.0f}. Split the file, or examine it on a larger machine."
        )
    try:
        content = read_json(file)
    except MemoryError as error:
        raise DataError(f"{file}: does not fit into the memory. Split the file.") from error
    return Split(name, file, content, folder)


def _memory_bytes() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8e9
