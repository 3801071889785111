"""Whether boxes said to be in pixels are in pixels: the rule of training and of the doctor, one record at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable

from data_tools.convert.report import Report
from dfine_lib.data.coco_checks import TINY_IMAGE_PX
from dfine_lib.data.images import DataError

PERCENT = 400  # pixels; boxes that all end within 100 on images this large may be percentages
Numbers = tuple[float, float, float, float]  # left, top, width, height


class Units:
    """What the boxes of a split say about their unit; see `dfine_lib.data.coco_checks.written_as_fractions`."""

    def __init__(self) -> None:
        self.boxes = self.within = 0  # boxes, and those of images that hold nothing but fractions
        self.images = 0  # such images of two boxes or more
        self.first = self.alone = ""  # where the first of these images is described; the first, of one box or more
        self.farthest, self.least, self.smallest = -math.inf, math.inf, math.inf  # edge, number, side of an image

    def add(self, boxes: Iterable[Numbers], size: tuple[int, int], location: str) -> None:
        """Take the boxes of one image into account, as the source writes them."""
        boxes = list(boxes)
        if not boxes:
            return
        self.boxes += len(boxes)
        farthest = max(max(left + width, top + height, left, top) for left, top, width, height in boxes)
        self.farthest, self.smallest = max(self.farthest, farthest), min(self.smallest, *size)
        self.least = min(self.least, *map(min, boxes))
        if farthest > 2 or min(size) <= TINY_IMAGE_PX:
            return
        numbers = [number for box in boxes for number in box]
        if min(numbers) >= 0 and max(numbers) <= 1 and any(number % 1 for number in numbers):
            self.within += len(boxes)
            self.alone = self.alone or location
            if len(boxes) > 1:
                self.images += 1
                self.first = self.first or location

    def all_fractions(self) -> bool:
        """Whether these are fractions of the image; also where all of them lie in the first pixel."""
        first_pixel = self.least >= 0 and 0 < self.farthest <= 1 and self.smallest > TINY_IMAGE_PX
        return 2 * self.within > self.boxes or first_pixel

    def some_fractions(self) -> bool:
        """Whether some images have fractions among others that have pixels."""
        return self.images > 0

    def perhaps_fractions(self) -> bool:
        """Whether an image has nothing but one box that lies in its first pixel."""
        return self.within > 0

    def perhaps_percent(self) -> bool:
        """Whether all boxes end within 100 pixels of large images."""
        return self.boxes > 0 and self.farthest <= 100 and self.smallest >= PERCENT


def check_units(by_split: dict[str, Units], report: Report) -> None:
    """Refuse fractions where pixels are meant; mention what may be percentages."""
    for split, units in by_split.items():
        if units.all_fractions():
            raise DataError(
                f"{report.source}: all boxes of split {split} lie within 0..1, though {report.read} "
                "gives pixels: they seem to be fractions of the image. Say --fractions to read them so."
            )
        if units.some_fractions():
            raise DataError(
                f"{report.source}: all boxes of {units.images:,} images of split {split} lie within 0..1, "
                f"those of others do not: fractions of the image among pixels (the first: {units.first}). Correct "
                "these images; in a data folder `dfine doctor DATA --fix OUT` does."
            )
        if units.perhaps_fractions():
            report.remark(
                f"{units.within:,} boxes of {split} lie within 0..1, alone in their images, others do not: are "
                f"they fractions? Look at {units.alone}"
            )
        if units.perhaps_percent():
            report.remark(f"all boxes of {split} end within 100 pixels: are they percentages? Look at some")
