"""What the detections of a model get wrong, in six kinds, and how much AP each kind costs.

Kinds and thresholds are those of TIDE: Bolya et al., A General Toolbox for Identifying Object Detection Errors (arXiv
2008.08558). A detection that finds no object of its class is, by the object it overlaps most,

- `localisation`: on an object of its class, but not well enough (IoU from 0.1 to 0.5);
- `classification`: on an object of another class, well enough (IoU 0.5 or more);
- `duplicate`: on an object of its class that a surer detection has found;
- `background`: on nothing (IoU 0.1 or less with every object);
- `both`: on an object of another class, and not well enough.

`missed` is an object that nothing found, and that mending a class or a place would not find either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dfine_lib.evaluate.coco_ap import ImageBoxes

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
RIGHT, IGNORED = -1, -2  # beside 0..4, the place in KINDS of a detection's error
_CLASSIFICATION, _LOCALISATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Verdicts:
    """A verdict on each of K detections and each of M objects of many images, as columns; ignored objects are none."""

    labels: np.ndarray  # int64 [K], 0..C-1
    scores: np.ndarray  # float64 [K]
    kinds: np.ndarray  # int64 [K]: place in KINDS, RIGHT, or IGNORED (on an ignored object, or in a crowd region)
    objects: np.ndarray  # int64 [K], the object that the verdict is about, 0..M-1; -1 for background, both, ignored
    images: np.ndarray  # int64 [K], place of the image in the list that was judged
    object_labels: np.ndarray  # int64 [M]
    object_images: np.ndarray  # int64 [M]
    found: np.ndarray  # bool [M], by a right detection

    @property
    def missed(self) -> np.ndarray:
        """bool `[M]`: objects not found, on which no detection lies that has only its class or its place wrong."""
        mendable = self.objects[np.isin(self.kinds, (_CLASSIFICATION, _LOCALISATION))]
        missed = ~self.found
        missed[mendable] = False
        return missed


@dataclass(frozen=True)
class ErrorBreakdown:
    """How often each kind of error happens, and the AP that would be gained if it did not; AP at one IoU, 0..1.

    Gains do not add up: each is of mending one kind alone.
    """

    ap: float  # at the foreground threshold; NaN without objects
    counts: dict[str, int]  # by kind
    gains: dict[str, float]  # by kind
    gain_false_positives: float  # of removing every wrong detection
    gain_false_negatives: float  # of counting only the objects that were found
    foreground: float  # IoU from which a detection is right
    background: float  # IoU up to which it is on nothing

    def rows(self) -> list[dict[str, Any]]:
        """A table: kind, count, gained AP."""
        return [{"error": kind, "count": self.counts[kind], "AP gained": self.gains[kind]} for kind in KINDS]


def judge_detections(images: Sequence[ImageBoxes], *, foreground: float = 0.5, background: float = 0.1) -> Verdicts:
    """Match detections with objects as COCO does, the surest first, and say of every other one what is wrong.

    Args:
        images: as `CocoEvaluator.by_image` gives them.
        foreground: IoU from which a detection is right.
        background: IoU up to which it is on nothing.

    Raises:
        ValueError: thresholds that are not 0 < background < foreground <= 1.

    Source: section 2 of the paper; the order in which kinds are tried is that of its code (tidecv 1.0.1), but a
    detection on an ignored object of its class, or inside a crowd region, is left out altogether.
    """
    if not 0 < background < foreground <= 1:
        raise ValueError(f"thresholds should be 0 < background < foreground <= 1, got {background} and {foreground}")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in Verdicts.__dataclass_fields__}
    before = 0  # objects of earlier images
    for i, image in enumerate(tqdm(images, desc="judge", unit="image", leave=False, disable=len(images) < 500)):
        kinds, objects, found = _judge_image(image, foreground, background)
        real = ~image.truth_ignored
        values = {
            "labels": image.labels,
            "scores": image.scores,
            "kinds": kinds,
            "objects": np.where(objects >= 0, objects + before, -1),
            "images": np.full(len(kinds), i),
            "object_labels": image.truth_labels[real],
            "object_images": np.full(real.sum(), i),
            "found": found,
        }
        for name, value in values.items():
            parts[name].append(value)
        before += int(real.sum())
    types = {"scores": np.float64, "found": bool}
    return Verdicts(**{
        name: np.concatenate([np.zeros(0), *columns]).astype(types.get(name, np.int64))
        for name, columns in parts.items()
    })  # fmt: skip


def error_breakdown(
    images: Sequence[ImageBoxes], *, foreground: float = 0.5, background: float = 0.1
) -> ErrorBreakdown:
    """Count the errors of each kind, and mend each kind alone to see what it costs.

    Mending gives a detection with a wrong class or place the right one, if it is the surest of both kinds on an object
    that was not found, and removes it otherwise. Detections of the other kinds are removed, missed objects are not
    asked for.

    Args:
        images: as `CocoEvaluator.by_image` gives them.
        foreground, background: as in `judge_detections`.

    Raises:
        ValueError: as in `judge_detections`.

    Source: section 2.3 of the paper; equal to its code (tidecv 1.0.1) but for crowds, see `judge_detections`, an IoU
    that is exactly a threshold, and rounding where a recall falls on a hundredth: here as in COCO's evaluation.
    """
    verdicts = judge_detections(images, foreground=foreground, background=background)
    asked = np.bincount(verdicts.object_labels) if len(verdicts.object_labels) else np.zeros(0, np.int64)
    counted = verdicts.kinds != IGNORED
    labels, scores, kinds = (column[counted] for column in (verdicts.labels, verdicts.scores, verdicts.kinds))
    objects, right = verdicts.objects[counted], kinds == RIGHT
    classes = np.flatnonzero(asked)  # COCO's mean is over the classes that have objects
    ap = _mean_ap(labels, scores, right, asked, classes)

    mendable = np.isin(kinds, (_CLASSIFICATION, _LOCALISATION))
    surest = _surest_on_unfound(mendable, objects, scores, verdicts.found)
    after: dict[str, float] = {}
    for number, kind in enumerate(KINDS[:-1]):
        own = kinds == number
        mended = own & surest
        kept = ~own | mended
        new_labels = labels.copy()
        new_labels[mended] = verdicts.object_labels[objects[mended]]
        after[kind] = _mean_ap(new_labels[kept], scores[kept], (right | mended)[kept], asked, classes)
    lost = np.bincount(verdicts.object_labels[verdicts.missed], minlength=len(asked))
    after["missed"] = _mean_ap(labels, scores, right, asked - lost, classes)
    hits = np.bincount(verdicts.object_labels[verdicts.found], minlength=len(asked))
    return ErrorBreakdown(
        ap=ap,
        counts={kind: int((kinds == n).sum()) for n, kind in enumerate(KINDS[:-1])} | {"missed": int(lost.sum())},
        gains={kind: after[kind] - ap for kind in KINDS},
        gain_false_positives=_mean_ap(labels[right], scores[right], right[right], asked, classes) - ap,
        gain_false_negatives=_mean_ap(labels, scores, right, hits, classes) - ap,
        foreground=foreground,
        background=background,
    )


def confusion_matrix(
    images: Iterable[ImageBoxes], num_classes: int, *, score: float = 0.4, iou: float = 0.5
) -> np.ndarray:
    """What objects were taken for.

    Detections take objects of their own class first, the surest first, so the diagonal counts what COCO would call
    right; those left over then take what is left over of other classes. A detection on an ignored object of
    its class, or inside a crowd region, is left out.

    Args:
        images: as `CocoEvaluator.by_image` gives them.
        num_classes: C.
        score: leave out detections below it.
        iou: overlap from which a detection can take an object.

    Returns:
        int64 `[C + 1, C + 1]`: row the true class, column the detected one. The last row is objects that are not there
        (false detections), the last column objects that were not found.

    Raises:
        ValueError: a label outside 0..C-1, or `iou` not in 0..1.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou should be above 0 and at most 1, got {iou}")
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in images:
        image = image.above(score)
        every = np.concatenate([image.truth_labels, image.labels])
        if len(every) and not 0 <= every.min() <= every.max() < num_classes:
            raise ValueError(f"image id {image.image_id}: labels {every.min()} to {every.max()} for {num_classes}")
        truth_labels, (overlap, on_ignored) = image.truth_labels[~image.truth_ignored], _overlaps(image)
        same = image.labels[:, None] == truth_labels
        taken = _match(np.where(same, overlap, 0), iou)
        taken = np.where((taken < 0) & _on_ignored(image, on_ignored, iou), IGNORED, taken)
        free = np.ones(len(truth_labels), dtype=bool)
        free[taken[taken >= 0]] = False
        other = _match(np.where(free & (taken == -1)[:, None], overlap, 0), iou)
        taken = np.where(taken == -1, other, taken)
        free[taken[taken >= 0]] = False
        hit = taken >= 0
        np.add.at(matrix, (truth_labels[taken[hit]], image.labels[hit]), 1)
        np.add.at(matrix, (num_classes, image.labels[taken == -1]), 1)
        np.add.at(matrix, (truth_labels[free], num_classes), 1)
    return matrix


@dataclass(frozen=True)
class ImageMistakes:
    """What went wrong in one image, at some score."""

    place: int  # in the list that was judged
    image_id: int
    objects: int
    missed: int  # objects without a right detection
    false: int  # detections that are not right


def worst_images(
    images: Sequence[ImageBoxes], *, score: float = 0.4, iou: float = 0.5, most: int | None = None
) -> list[ImageMistakes]:
    """Images with the most missed objects and false detections, worst first; those without a mistake are left out.

    Args:
        images: as `CocoEvaluator.by_image` gives them.
        score: leave out detections below it.
        iou: overlap from which a detection is right.
        most: at most so many.

    Raises:
        ValueError: `iou` not above 0.1 and at most 1.
    """
    verdicts = judge_detections([image.above(score) for image in images], foreground=iou)
    count = lambda places: np.bincount(places, minlength=len(images))  # noqa: E731
    objects = count(verdicts.object_images)
    missed = count(verdicts.object_images[~verdicts.found])
    false = count(verdicts.images[verdicts.kinds >= 0])
    order = np.argsort(-(missed + false), kind="stable")
    order = [int(i) for i in order if missed[i] + false[i]][:most]
    return [ImageMistakes(i, images[i].image_id, int(objects[i]), int(missed[i]), int(false[i])) for i in order]


def _judge_image(image: ImageBoxes, foreground: float, background: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`kinds` and `objects` of K detections, `found` of the G objects that count."""
    truth_labels, (overlap, on_ignored) = image.truth_labels[~image.truth_ignored], _overlaps(image)
    same = image.labels[:, None] == truth_labels  # [K, G]
    own, other = np.where(same, overlap, 0), np.where(same, 0, overlap)
    taken = _match(own, foreground)
    found = np.zeros(len(truth_labels), dtype=bool)
    found[taken[taken >= 0]] = True
    best_own, best_other = own.max(1, initial=0), other.max(1, initial=0)
    rules = [
        (taken >= 0, RIGHT, taken),
        (_on_ignored(image, on_ignored, foreground), IGNORED, None),
        ((best_own >= background) & (best_own < foreground), _LOCALISATION, own),
        (best_other >= foreground, _CLASSIFICATION, other),
        (best_own >= foreground, _DUPLICATE, own),
        (np.maximum(best_own, best_other) <= background, _BACKGROUND, None),
        (np.ones(len(taken), dtype=bool), _BOTH, None),
    ]
    kinds, objects = np.full(len(taken), _BOTH), np.full(len(taken), -1)
    for holds, kind, about in reversed(rules):  # the first rule that holds has the last word
        kinds[holds] = kind
        if about is None or not len(truth_labels):
            objects[holds] = -1
        else:
            objects[holds] = (about if about.ndim == 1 else about.argmax(1))[holds]
    return kinds, objects, found


def _match(overlap: np.ndarray, least: float) -> np.ndarray:
    """Object of each detection, -1 for none. Detections choose in turn; of equal overlaps the later, as COCO does."""
    taken = np.full(len(overlap), -1)
    if not overlap.size:
        return taken
    free = overlap.copy()
    least = min(least, 1 - 1e-10)
    for k in np.flatnonzero((overlap >= least).any(1)):
        best = free.shape[1] - 1 - int(free[k, ::-1].argmax())
        if free[k, best] >= least:
            taken[k] = best
            free[:, best] = 0
    return taken


def _overlaps(image: ImageBoxes) -> tuple[np.ndarray, np.ndarray]:
    """IoU with the objects that count `[K, G]` and with the ignored ones `[K, R]`; with a crowd region, the part of
    the detection's area inside it: COCO's own function, so exactly the IoU that AP is computed with."""
    from faster_coco_eval import mask

    found, truth = (
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        for boxes in (image.boxes_xyxy, image.truth_boxes_xyxy)
    )
    iou = np.zeros((len(found), len(truth)))
    if iou.size:
        iou[:] = mask.iou(found, truth, image.truth_iscrowd.astype(int).tolist())
    return iou[:, ~image.truth_ignored], iou[:, image.truth_ignored]


def _on_ignored(image: ImageBoxes, overlap: np.ndarray, least: float) -> np.ndarray:
    """Whether a detection overlaps an ignored object of its class so much, bool `[K]`."""
    same = image.labels[:, None] == image.truth_labels[image.truth_ignored]
    return (same & (overlap >= min(least, 1 - 1e-10))).any(1)


def _surest_on_unfound(mendable: np.ndarray, objects: np.ndarray, scores: np.ndarray, found: np.ndarray) -> np.ndarray:
    """bool `[K]`: of those that can be mended, the surest one on every object that was not found."""
    chosen = np.zeros(len(mendable), dtype=bool)
    which = np.flatnonzero(mendable & (objects >= 0))
    which = which[~found[objects[which]]]
    which = which[np.argsort(-scores[which], kind="stable")]
    chosen[which[np.unique(objects[which], return_index=True)[1]]] = True
    return chosen


def _mean_ap(
    labels: np.ndarray, scores: np.ndarray, right: np.ndarray, asked: np.ndarray, classes: np.ndarray
) -> float:
    """Mean of COCO's 101-point average precision over `classes`; NaN without classes. A class of 0 objects has 0."""
    if not len(classes):
        return float("nan")
    return float(np.mean([_ap(scores[labels == c], right[labels == c], int(asked[c])) for c in classes]))


def _ap(scores: np.ndarray, right: np.ndarray, objects: int) -> float:
    if not objects or not len(scores):
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / objects
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())
