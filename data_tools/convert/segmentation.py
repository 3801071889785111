"""The box around a COCO segmentation: polygons, or a run-length encoded mask, written out or compressed."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_tools.convert.records import number
from dfine_lib.data.coco_columns import short
from dfine_lib.data.images import DataError

_MOST_RUNS = 10_000_000  # of one mask


def box_around(segmentation: Any, location: str) -> list[float] | None:
    """Left, top, width, height in pixels; None where the segmentation is empty.

    Args:
        segmentation: a list of polygons `[x1, y1, x2, y2, …]`, one such polygon, or an object with `size` (height,
            width) and `counts`.
        location: for messages.

    Raises:
        DataError: it is none of these.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _around_mask(segmentation, location)
    if not isinstance(segmentation, list):
        raise DataError(f"{location}: 'segmentation' should be polygons or a mask, got {short(segmentation)}.")
    flat = [number(value, location, "a number of the segmentation") for value in _flat(segmentation)]
    if not flat:
        return None
    if len(flat) % 2:
        raise DataError(
            f"{location}: 'segmentation' has {len(flat)} numbers, no pairs of x and y. Correct or remove it."
        )
    left, top = min(flat[0::2]), min(flat[1::2])
    return [left, top, max(flat[0::2]) - left, max(flat[1::2]) - top]


def _flat(polygons: list[Any]) -> list[Any]:
    """All numbers of polygons that are nested two or three levels deep (lists of pairs occur)."""
    for _ in range(3):
        if not any(isinstance(part, list) for part in polygons):
            return polygons
        polygons = [value for part in polygons for value in (part if isinstance(part, list) else [part])]
    return polygons


def _around_mask(mask: dict[str, Any], location: str) -> list[float] | None:
    """Box of the set pixels; the runs go down the columns, and begin with pixels that are not set."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and 0 < side < 1e7 for side in size):
        raise DataError(f"{location}: 'size' of the mask should be height and width, got {short(size)}.")
    if isinstance(counts, str):
        counts = _decompressed(counts, location)
    good = isinstance(counts, list) and all(type(count) is int and 0 <= count <= size[0] * size[1] for count in counts)
    if not good or sum(counts) > size[0] * size[1]:
        raise DataError(f"{location}: 'counts' of the mask are no run lengths of {size[0]} x {size[1]} pixels.")
    ends = np.cumsum(np.array(counts, np.int64))
    first, last = ends[0:-1:2], ends[1::2] - 1  # first and last pixel of every run of set pixels
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return None
    height = size[0]
    left, right = int(first[0] // height), int(last[-1] // height)
    if (first // height != last // height).any():  # a run that goes on in the next column reaches both edges
        return [left, 0, right + 1 - left, height]
    top, bottom = int((first % height).min()), int((last % height).max())
    return [left, top, right + 1 - left, bottom + 1 - top]


def _decompressed(text: str, location: str) -> list[int]:
    """Run lengths from COCO's compressed text: 5 bits a character, from the third run on as the difference to the run
    before the last.

    Source: the COCO API (`maskApi.c`, rleFrString).
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60 or len(counts) > _MOST_RUNS:
            raise DataError(f"{location}: 'counts' of the mask are no text of a COCO mask. Export it again.")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
