"""Precision and recall of every class, as COCO's evaluation tells them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfine_lib.evaluate.coco_matching import (
    AREAS,
    IOU_THRESHOLDS,
    MOST,
    Found,
    Matches,
    Objects,
    counted,
    match,
    outside,
    rank_in_group,
)

RECALLS = np.linspace(0, 1, 101)
FEW = (1, 10)  # smaller numbers of detections per image and class for which recall is told


class Scores(NamedTuple):
    """By class; -1 where a class has no objects to be found."""

    precision: np.ndarray  # [10 IoUs, 101 recalls, C, 4 areas], best precision at that recall or a higher one
    recall: np.ndarray  # [10 IoUs, C, 4 areas]
    recall_of_few: np.ndarray  # [10 IoUs, C, 2], with at most 1 and 10 detections per image and class


class Order(NamedTuple):
    """The detections that count, by place."""

    by_group: np.ndarray  # int64 [K], groups rising, scores falling within a group
    groups: np.ndarray  # int64 [K], of these
    rank: np.ndarray  # int64 [K], of these: how many of the group are surer
    by_score: np.ndarray  # int64 [K], scores falling; of equal ones that of the earlier image, then the earlier one


def countable(found: Found, num_classes: int) -> Order:
    """The best 100 detections of every image and class. Of equal scores the earlier counts as the surer.

    Args:
        found: images rising; in any order within an image.
        num_classes: C.
    """
    by_score = np.argsort(-found.scores, kind="stable")
    groups = found.images.astype(np.int64) * num_classes + found.classes
    by_group = by_score[np.argsort(groups[by_score], kind="stable")]
    groups = groups[by_group]
    rank = rank_in_group(groups)
    if len(rank) and rank.max() >= MOST:
        kept = rank < MOST
        by_group, groups, rank = by_group[kept], groups[kept], rank[kept]
        counts = np.zeros(len(found.scores), bool)
        counts[by_group] = True
        by_score = by_score[counts[by_score]]
    return Order(by_group, groups, rank, by_score)


def score(objects: Objects, found: Found, num_classes: int) -> Scores:
    """COCO's precision and recall, equal to those of pycocotools up to the last bit: 1 of 1 is 1, not 1 - 2e-16.

    Args:
        objects: of the scored images; classes 0..C-1.
        found: images rising; scores and boxes finite.
        num_classes: C.
    """
    order = countable(found, num_classes)
    groups = objects.images * num_classes + objects.classes
    places = np.argsort(groups, kind="stable")
    matches = match(objects.take(places), groups[places], found.take(order.by_group), order.groups)
    rank = order.rank[matches.which]
    matches = matches._replace(which=order.by_group[matches.which])
    asked = np.stack([np.bincount(objects.classes[c], minlength=num_classes) for c in counted(objects).T], axis=1)
    return _accumulate(found, order.by_score, matches, rank, asked)


def _accumulate(found: Found, by_score: np.ndarray, matches: Matches, rank: np.ndarray, asked: np.ndarray) -> Scores:
    """Precision can rise only where an object was found: the curves are known from the detections that took one.

    Args:
        by_score: detections that count, by falling score.
        rank: of the matched detections, in their groups.
        asked: int `[C, 4]`, objects that count.
    """
    num_classes = len(asked)
    small = found.classes.astype(np.uint16) if num_classes < 1 << 16 else found.classes  # 16 bits are sorted by radix
    by_class = by_score[np.argsort(small[by_score], kind="stable")]
    start = np.searchsorted(found.classes[by_class], np.arange(num_classes + 1))
    place = np.zeros(len(found.scores), np.int64)
    place[by_class] = np.arange(len(by_class))
    order = np.argsort(place[matches.which])  # of the matched: by class, in it by falling score
    place, rank, taken, ignored = place[matches.which][order], rank[order], matches.taken[order], matches.ignored[order]
    own_start = np.searchsorted(place, start)
    is_unlike = outside(found)[by_class]
    unlike = np.zeros((len(by_class) + 1, len(AREAS)), np.int32)
    np.cumsum(is_unlike, axis=0, out=unlike[1:])

    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), num_classes, len(AREAS)), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), num_classes, len(AREAS)), -1.0)
    of_few = np.full((len(IOU_THRESHOLDS), num_classes, len(FEW)), -1.0)
    for c, a in np.argwhere(asked > 0):
        rows = slice(own_start[c], own_start[c + 1])
        at, shift = place[rows], len(IOU_THRESHOLDS) * a
        took, no_count = _bits(taken[rows], shift), _bits(ignored[rows], shift)  # [n, 10]
        hits = np.cumsum(took & ~no_count, axis=0, dtype=np.int32)
        # Left out until here: what is of another size, unless it took an object; what took one that does not count.
        left_out = np.cumsum(no_count.astype(np.int8) - (took & is_unlike[at, a, None]), axis=0, dtype=np.int32)
        left_out += (unlike[at + 1, a] - unlike[start[c], a])[:, None]
        shown = (at - start[c] + 1)[:, None] - left_out
        curve = np.zeros((len(at) + 1, len(IOU_THRESHOLDS)))  # the last row: a recall that is not reached
        curve[:-1] = np.maximum.accumulate((hits / np.maximum(shown, 1))[::-1])[::-1]
        precision[:, :, c, a] = _at_recalls(curve, hits, asked[c, a])
        recall[:, c, a] = hits[-1] / asked[c, a] if len(at) else 0
        if a == 0:
            for few, limit in enumerate(FEW):
                of_few[:, c, few] = (took & ~no_count)[rank[rows] < limit].sum(0) / asked[c, a]
    return Scores(precision, recall, of_few)


def _at_recalls(curve: np.ndarray, hits: np.ndarray, objects: int) -> np.ndarray:
    """The curves `[n + 1, 10]` where recall first is 0, 0.01, …, 1, as `[10, 101]`."""
    wanted = np.searchsorted(np.arange(objects + 1) / objects, RECALLS, side="left")  # hits that make this recall
    columns = np.arange(hits.shape[1])[:, None]
    step = objects + 1  # the columns one after the other rise throughout
    found = np.searchsorted((hits.T + columns * step).ravel(), (wanted + columns * step).ravel(), side="left")
    return curve[found.reshape(len(columns), -1) - columns * len(hits), columns]


def _bits(values: np.ndarray, shift: int) -> np.ndarray:
    """Ten bits from `shift` on, bool `[n, 10]`."""
    return (values[:, None] >> (shift + np.arange(len(IOU_THRESHOLDS))) & 1).astype(bool)
