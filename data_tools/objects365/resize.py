"""D-FINE's shrinking of Objects365: images whose longer side exceeds 640 pixels, with their boxes.

An image that is in its place is not made again, and each appears there whole: the folder itself is the record of how
far a run has come. The annotation file is written last.

Source: the authors' preparation (`tools/resize_obj365.py`).
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from data_tools.convert.image_headers import UnreadableImage, header_size
from data_tools.convert.records import LARGEST, clean_name, inside, numbers
from data_tools.image_frames import fits
from data_tools.objects365.lists import place, read_lists, whole_number, write_lists
from data_tools.objects365.places import (
    annotations_of,
    finish,
    finished,
    link_image,
    only_one,
    place_of,
    resumable,
    work_of,
)
from data_tools.objects365.shrink import shrink, target_size
from dfine_lib.data.coco_columns import short
from dfine_lib.errors import DataError

MOST_LISTED = 10_000  # names of each kind in the report
_TOGETHER = 8  # images of one task


@dataclass
class Resized:
    """Counts, over all splits, and the images that are not as the list says."""

    out: Path
    images: dict[str, int] = field(default_factory=dict)  # written, by split
    boxes: dict[str, int] = field(default_factory=dict)
    shrunk: int = 0
    made: int = 0  # of these, by this run
    counts: dict[str, int] = field(default_factory=dict)  # of the lists below
    listed: dict[str, list[str]] = field(default_factory=dict)  # what → images

    def note(self, what: str, name: str) -> None:
        """Count it, and list it while the list is short."""
        self.counts[what] = self.counts.get(what, 0) + 1
        names = self.listed.setdefault(what, [])
        if len(names) < MOST_LISTED:
            names.append(name)

    def __str__(self) -> str:
        splits = "; ".join(
            f"{split} {count:,} images, {self.boxes[split]:,} boxes" for split, count in self.images.items()
        )
        there = f" ({self.shrunk - self.made:,} by an earlier run)" if self.made < self.shrunk else ""
        parts = [f"objects365 resize: {splits}; {self.shrunk:,} images shrunk{there}; in {self.out}"]
        parts += [f"{what}: {count:,} ({', '.join(self.listed[what][:3])}{', …' if count > 3 else ''})"
                  for what, count in self.counts.items()]  # fmt: skip
        return "; ".join(parts)


MISSING, UNREADABLE = "left out, image missing", "left out, image unreadable"
SWAPPED, NO_SIZE = "width and height were swapped in the list", "the list gave no size"
RESIZED = "boxes scaled to the size of the image, which was resized before"
OTHER_SIZE = "left out, image of another size than the list gives"
LOST_BOXES = "boxes left out, their image is not listed"
ODD_BOXES = "boxes left out, 'bbox' is not four numbers"
ODD_AREAS = "'area' was no number, now that of the box"


def resize(
    source: Path | str, out: Path | str, *, size: int = 640, splits: tuple[str, ...] = ("train", "val"),
    workers: int | None = None, follow_links: bool = False, progress: bool = True,
) -> Resized:  # fmt: skip
    """Shrink the images of Objects365 and their boxes.

    Reads `new_zhiyuan_objv2_SPLIT.json` (of `remap`) or `zhiyuan_objv2_SPLIT.json`; writes `…_resized.json`, images
    that were shrunk with `_resized` in their name, and links to the others. Boxes are scaled by `size` / longer side,
    areas by its square. An image that is missing or unreadable is left out with its boxes, and so is one of another
    size than the list gives, unless it was resized (its boxes follow) or its sides are swapped in the list; a box that
    is not four numbers is left out; all are reported. Images are turned upright, as everywhere in this library. Stopped
    at any moment, the same call goes on, also after an annotation file was corrected.

    Args:
        source: folder that `remap` made, or as published; never changed.
        out: folder to make, or to go on with.
        size: longest side in pixels.
        splits: which.
        workers: threads; default: one a core.
        follow_links: also read images that are links out of `source`.
        progress: show bars.

    Returns:
        Counts and what was not as the list says.

    Raises:
        DataError: an annotation file is missing or not what it should be (file, list, record, and the way out); not one
            image is there; `out` was begun with other files or settings, or another process is at it.
    """
    source, out = Path(source), Path(out)
    if not 16 <= size <= 16384:
        raise DataError(f"size should be 16 to 16384 pixels, got {size}.")
    files = {split: annotations_of(source, split, f"new_zhiyuan_objv2_{split}.json") for split in splits}
    work = work_of(files, what="resize", size=size)
    with only_one(source, out):
        if (done := finished(out, work)) is not None:
            return Resized(out, **done | {"made": 0})
        with resumable(out, work, files_may_change=True):  # images are known by their names
            result = Resized(out)
            for split, file in files.items():
                _Split(file, source / split, out / split, size, split, follow_links, progress).run(result, workers)
            names = {split: f"{file.stem}_resized.json" for split, file in files.items()}
            finish(out, names, work, {key: value for key, value in vars(result).items() if key != "out"})
    return result


def resized_name(file_name: str) -> str:
    """`images/v1/patch8/a.jpg` → `images/v1/patch8/a_resized.jpg`."""
    return f"{file_name.removesuffix('.jpg')}_resized.jpg"


@dataclass(frozen=True, slots=True)
class _Image:
    """What the list says of one image."""

    identity: int
    name: str
    listed_wh: tuple[Any, Any]


def _of_the_list(given: tuple[Any, Any], true: tuple[int, int]) -> tuple[float, tuple[str, ...]]:
    """What takes a box from the size that the list gives to the true one, 0 where nothing does; and what to note."""
    if given == true:
        return 1.0, ()
    if given == true[::-1]:
        return 1.0, (SWAPPED,)
    if not all(type(side) is int and side > 0 for side in given):
        return 1.0, (NO_SIZE,)
    return (max(true) / max(given), (RESIZED,)) if fits(given, true) else (0.0, (OTHER_SIZE,))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of it."""

    width: int = 0  # after shrinking; 0: left out
    height: int = 0
    scale: float = 0.0  # of the image
    box_scale: float = 0.0  # of its boxes, which are in pixels of the size that the list gives
    made: bool = False
    notes: tuple[str, ...] = ()


class _Split:
    def __init__(self, file: Path, images: Path, out: Path, size: int, split: str, follow_links: bool, progress: bool):
        self.file, self.image_folder, self.out = file, images, out
        self.size, self.split = size, split
        self.follow_links, self.progress = follow_links, progress
        self.ids, self.widths, self.heights, self.scales = array("q"), array("i"), array("i"), array("d")
        self.box_scales = array("d")

    def run(self, result: Resized, workers: int | None) -> None:
        """Images first, then the file that tells of them."""
        self._shrink_all(result, workers or os.cpu_count() or 1)
        if not any(self.widths):
            raise DataError(
                f"{self.file}: not one of its {len(self.ids):,} images is usable in {self.image_folder}. Bring "
                "them there, at the paths that 'file_name' gives."
            )
        ids, counts = np.unique(np.frombuffer(self.ids, np.int64), return_counts=True)
        if (counts > 1).any():
            raise DataError(
                f"{self.file}: a second image with id {ids[counts > 1][0]}. Give every image an id of its own; "
                "then the same command resumes."
            )
        result.images[self.split] = sum(width > 0 for width in self.widths)
        result.boxes[self.split] = 0
        write_lists(self.out / f"{self.file.stem}_resized.json", self._records(result))

    # ---- images ----------------------------------------------------------------------------------------------

    def _shrink_all(self, result: Resized, threads: int) -> None:
        """Fill ids, sizes and scales, in the file's order. Threads suffice: decoding and resizing let others run."""
        waiting: deque[tuple[list[_Image], Future[list[_Outcome]]]] = deque()
        bar = tqdm(
            desc=f"shrinking {self.split}", unit="image", leave=False, dynamic_ncols=True, delay=2.0,
            disable=not self.progress,
        )  # fmt: skip
        with bar, ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            try:
                for images in self._listed():
                    waiting.append((images, pool.submit(self._several, images)))
                    while len(waiting) > 4 * threads:
                        self._settle(*waiting.popleft(), result)
                        bar.update(_TOGETHER)
                while waiting:
                    self._settle(*waiting.popleft(), result)
                    bar.update(_TOGETHER)
            finally:  # after an error too, nothing is half done
                pool.shutdown(wait=True, cancel_futures=True)

    def _settle(self, images: list[_Image], future: Future[list[_Outcome]], result: Resized) -> None:
        for image, outcome in zip(images, future.result()):
            self.ids.append(image.identity)
            self.widths.append(outcome.width)
            self.heights.append(outcome.height)
            self.scales.append(outcome.scale)
            self.box_scales.append(outcome.box_scale)
            result.shrunk += 0 < outcome.scale < 1
            result.made += outcome.made
            for note in outcome.notes:
                result.note(note, f"{self.split}/{image.name}")

    def _listed(self) -> Iterator[list[_Image]]:
        images = []
        for key, i, record, _ in read_lists(self.file):
            if key != "images" or i < 0:
                continue
            identity = whole_number(self.file, key, i, record, "id")
            name = clean_name(record.get("file_name"), place(self.file, key, i, record))
            images.append(_Image(identity, name, (record.get("width"), record.get("height"))))
            if len(images) == _TOGETHER:
                yield images
                images = []
        if images:
            yield images

    def _several(self, images: list[_Image]) -> list[_Outcome]:
        return [self._one(image) for image in images]

    def _one(self, image: _Image) -> _Outcome:
        path = place_of(self.image_folder, image.name)
        if not path.is_file():
            return _Outcome(notes=(MISSING,))
        inside(path, self.image_folder, self.follow_links)
        try:
            size_wh = header_size(path)
            factor, notes = _of_the_list(image.listed_wh, size_wh)
            if not factor:
                return _Outcome(notes=notes)
            if max(size_wh) <= self.size:
                link_image(path, self.out / image.name, "link")
                return _Outcome(*size_wh, 1.0, factor, notes=notes)
            target = self.out / resized_name(image.name)
            made = not target.exists()
            if made:
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{image.identity}.part")
                shrink(path, part, self.size)
                part.replace(target)
        except (UnreadableImage, ValueError, RuntimeError, SyntaxError, EOFError):
            return _Outcome(notes=(UNREADABLE,))
        except OSError as error:
            if error.errno is not None:  # the disk; Pillow's own have no number
                raise
            return _Outcome(notes=(UNREADABLE,))
        scale = self.size / max(size_wh)
        return _Outcome(*target_size(*size_wh, self.size), scale, scale * factor, made, notes)

    # ---- the annotation file -----------------------------------------------------------------------------------

    def _records(self, result: Resized) -> Iterator[tuple[str, str]]:
        row_of = {identity: row for row, identity in enumerate(self.ids)}
        for key, i, record, text in read_lists(self.file, self.progress):
            if i < 0:
                continue
            if key == "categories":
                yield key, text
            elif key == "images":
                if self.widths[i]:
                    yield key, self._image(record, i)
            elif (row := row_of.get(whole_number(self.file, key, i, record, "image_id"))) is None:
                result.note(LOST_BOXES, f"{self.file}, {key}[{i}]")
            elif self.scales[row] and (box := self._scaled(record, text, i, row, result)) is not None:
                result.boxes[self.split] += 1
                yield key, box

    def _image(self, record: dict[str, Any], i: int) -> str:
        record |= {"width": self.widths[i], "height": self.heights[i]}
        if self.scales[i] < 1:
            record["file_name"] = resized_name(clean_name(record["file_name"], place(self.file, "images", i, record)))
        return json.dumps(record)

    def _scaled(self, record: dict[str, Any], text: str, i: int, row: int, result: Resized) -> str | None:
        """The text of a box's record; None where it has no box."""
        scale, where = self.box_scales[row], place(self.file, "annotations", i, record)
        try:
            box = numbers(record.get("bbox"), 4, "", "'bbox'")
        except DataError:
            result.note(ODD_BOXES, f"{where}: {short(record.get('bbox'), 40)}")
            return None
        area = record.get("area", 0)
        odd = type(area) not in (int, float) or not (type(area) is int or math.isfinite(area)) or abs(area) > LARGEST**2
        if scale == 1 and box == record["bbox"] and not odd:
            return text
        record["bbox"] = [value * scale for value in box]
        if odd:
            result.note(ODD_AREAS, f"{where}: {short(area, 40)}")
            area = box[2] * box[3]
        if "area" in record:
            record["area"] = area * scale**2
        record.pop("segmentation", None)  # outlines are not carried; the boxes are what is trained on
        for key in ("size", "orig_size"):
            if key in record:
                record[key] = [self.widths[row], self.heights[row]]
        return json.dumps(record)
