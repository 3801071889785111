"""Which detections COCO's evaluation takes for found objects: every image, class, IoU threshold and size at once.

The rules are those of pycocotools' `COCOeval`. It goes through images, classes, sizes, thresholds and detections one by
one; here all that is independent goes side by side. A group is what one image holds of one class: groups never meet, so
the surest detections of all groups choose in one step, then the second surest, and so on. The 40 combinations of size
and threshold never meet either: they are bits of one integer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))  # all, small, medium, large; square pixels
MOST = 100  # detections of a group that count
_AT_ONCE = 1 << 20  # pairs, or boxes, that are in work at a time

_EVERY = (1 << len(IOU_THRESHOLDS)) - 1
_AREA_BITS = np.array([_EVERY << (len(IOU_THRESHOLDS) * a) for a in range(len(AREAS))])
# By how many thresholds an IoU reaches: the bits of these thresholds, in every area.
_REACHED = np.array([sum(((1 << n) - 1) << (10 * a) for a in range(len(AREAS))) for n in range(11)])


class Objects(NamedTuple):
    """Annotated objects of many images, as columns, in the order of the file."""

    images: np.ndarray  # int64 [G], place of the image
    classes: np.ndarray  # int64 [G], place of the class
    boxes_xywh: np.ndarray  # float64 [G, 4], pixels
    areas: np.ndarray  # float64 [G], square pixels
    iscrowd: np.ndarray  # bool [G]
    ignored: np.ndarray  # bool [G]: neither missed nor is what is found there false; all crowd regions, and others

    def take(self, which: np.ndarray) -> Objects:
        """Those of a mask or of indices."""
        return Objects(*(column[which] for column in self))


class Found(NamedTuple):
    """Detections in many images, as columns."""

    images: np.ndarray  # int32 [K], place of the image
    classes: np.ndarray  # int32 [K], place of the class
    boxes_xyxy: np.ndarray  # float32 or float64 [K, 4], pixels
    scores: np.ndarray  # float32 or float64 [K]

    def take(self, which: np.ndarray) -> Found:
        """Those of a mask or of indices."""
        return Found(*(column[which] for column in self))


class Matches(NamedTuple):
    """Detections that took an object. Bit 10 a + t of an integer is IoU threshold t at area a."""

    which: np.ndarray  # int64 [M], places of these detections, rising
    taken: np.ndarray  # int64 [M], where it took an object
    ignored: np.ndarray  # int64 [M], where that object does not count: ignored, or of another size


def overlaps(found_xywh: np.ndarray, objects_xywh: np.ndarray, iscrowd: np.ndarray) -> np.ndarray:
    """IoU of boxes pair by pair; with a crowd region, the share of the found box that lies in it.

    Args:
        found_xywh, objects_xywh: float64 `[..., 4]`, left, top, width, height.
        iscrowd: bool `[...]`, of the objects. The three are broadcast against each other.
    """
    x, y, w, h = np.moveaxis(found_xywh, -1, 0)
    object_x, object_y, object_w, object_h = np.moveaxis(objects_xywh, -1, 0)
    width = np.minimum(x + w, object_x + object_w) - np.maximum(x, object_x)
    height = np.minimum(y + h, object_y + object_h) - np.maximum(y, object_y)
    common = np.maximum(width, 0) * np.maximum(height, 0)
    own = w * h
    whole = np.where(iscrowd, own, own + object_w * object_h - common)
    return np.divide(common, whole, out=np.zeros_like(common), where=common > 0)


def to_xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Corners `[..., 4]` to float64 left, top, width, height."""
    boxes = boxes_xyxy.astype(np.float64)
    boxes[..., 2:] -= boxes[..., :2]
    return boxes


def counted(objects: Objects) -> np.ndarray:
    """Whether each object counts at each area, bool `[G, 4]`. An ignored one never does."""
    low, high = np.array(AREAS).T
    inside = (objects.areas[:, None] >= low) & (objects.areas[:, None] <= high)
    return inside & ~objects.ignored[:, None]


def outside(found: Found) -> np.ndarray:
    """Whether each detection is of another size than each area asks for, bool `[K, 4]`."""
    low, high = np.array(AREAS).T
    result = np.empty((len(found.scores), len(AREAS)), bool)
    for start in range(0, len(result), _AT_ONCE):
        boxes = to_xywh(found.boxes_xyxy[start : start + _AT_ONCE])
        area = (boxes[:, 2] * boxes[:, 3])[:, None]
        result[start : start + _AT_ONCE] = (area < low) | (area > high)
    return result


def rank_in_group(groups: np.ndarray) -> np.ndarray:
    """How many of the same group come before, of sorted groups."""
    places = np.arange(len(groups))
    is_first = np.ones(len(groups), bool)
    is_first[1:] = groups[1:] != groups[:-1]
    return places - np.maximum.accumulate(np.where(is_first, places, 0))


def match(objects: Objects, object_groups: np.ndarray, found: Found, found_groups: np.ndarray) -> Matches:
    """Let detections choose objects: the surest first, each the one it overlaps most, a counted one before others.

    Args:
        objects: sorted by group.
        object_groups: int64 `[G]`, rising.
        found: sorted by group, and by falling score within it.
        found_groups: int64 `[K]`, rising.
    """
    found_at, object_at, reached = _pairs(objects, object_groups, found, found_groups)
    which, begin, number = np.unique(found_at, return_index=True, return_counts=True)
    turn = rank_in_group(found_groups[which])
    order = np.lexsort((-number, turn))  # detections of one turn side by side, those with more objects in reach first
    begin, number = begin[order], number[order]
    counts = np.where(counted(objects), _AREA_BITS, 0).sum(1)  # [G], bits of the areas at which an object counts
    free = np.full(len(objects.areas), -1)
    taken, ignored = np.zeros(len(which), np.int64), np.zeros(len(which), np.int64)
    for first, last in pairwise([0, *np.cumsum(np.bincount(turn))]):
        took, of_no_count = np.zeros(last - first, np.int64), np.zeros(last - first, np.int64)
        reaching = np.searchsorted(-number[first:last], -np.arange(number[first]), side="left")  # with more than k
        for second_choice in (False, True):
            for k, n in enumerate(reaching):
                pair = begin[first : first + n] + k
                there = object_at[pair]
                fit = ~counts[there] if second_choice else counts[there]
                now = reached[pair] & free[there] & fit & ~took[:n]
                free[there] &= ~np.where(objects.ignored[there], 0, now)  # ignored: for any number
                took[:n] |= now
                if second_choice:
                    of_no_count[:n] |= now
        taken[order[first:last]], ignored[order[first:last]] = took, of_no_count
    return Matches(which, taken, ignored)


def _pairs(
    objects: Objects, object_groups: np.ndarray, found: Found, found_groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections with objects of their group that they overlap by 0.5 or more: their places, and the bits reached.

    By rising detection; of one detection the larger overlap first, of equal ones the later object, as COCO prefers.
    """
    start = np.searchsorted(object_groups, found_groups, side="left")
    number = np.searchsorted(object_groups, found_groups, side="right") - start
    before = np.cumsum(number) - number
    limits = np.searchsorted(before, np.arange(_AT_ONCE, number.sum(), _AT_ONCE))
    limits = np.unique([0, *limits, len(number)])
    parts = []
    for first, last in pairwise(limits):
        repeat = number[first:last]
        found_at = np.repeat(np.arange(first, last), repeat)
        nth = np.arange(len(found_at)) - np.repeat(before[first:last] - before[first:last][:1], repeat)
        object_at = np.repeat(start[first:last], repeat) + nth
        boxes = to_xywh(found.boxes_xyxy[found_at])
        iou = overlaps(boxes, objects.boxes_xywh[object_at], objects.iscrowd[object_at])
        near = np.flatnonzero(iou >= IOU_THRESHOLDS[0])
        parts.append((found_at[near], object_at[near], iou[near]))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    found_at, object_at, iou = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((-object_at, -iou, found_at))
    least = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    return found_at[order], object_at[order], _REACHED[np.searchsorted(least, iou[order], side="right")]
