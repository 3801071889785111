"""What the detections of a model get wrong, in six error types, and how much AP each type costs.

Types and thresholds are those of TIDE: Bolya et al., A General Toolbox for Identifying Object Detection Errors (arXiv
2008.08558). A false positive is, by the object it overlaps most,

- `localisation`: on an object of its class, with an IoU from 0.1 to 0.5;
- `classification`: on an object of another class, with an IoU of 0.5 or more;
- `duplicate`: on an object of its class that a detection of a higher score has matched;
- `background`: on no object (IoU 0.1 or less with every one);
- `both`: on an object of another class, with an IoU below 0.5.

`missed` is a false negative that fixing the class or the box of a detection would not match either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dfine_tools.analysis.image_boxes import ImageBoxes

ERROR_TYPES = ("classification", "localisation", "both", "duplicate", "background", "missed")
TRUE_POSITIVE, IGNORED = -1, -2  # beside 0..4, a detection's index in ERROR_TYPES
_CLASSIFICATION, _LOCALISATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Matches:
    """The match status of K detections and M objects of many images, as columns; ignored objects are left out."""

    labels: np.ndarray  # int64 [K], 0..C-1
    scores: np.ndarray  # float64 [K]
    status: np.ndarray  # int64 [K]: index in ERROR_TYPES, TRUE_POSITIVE, or IGNORED (on an ignored object or a crowd)
    objects: np.ndarray  # int64 [K], the object that the status refers to, 0..M-1; -1 for background, both, ignored
    images: np.ndarray  # int64 [K], index of the image in the list
    object_labels: np.ndarray  # int64 [M]
    object_images: np.ndarray  # int64 [M]
    found: np.ndarray  # bool [M], matched by a true positive

    @property
    def missed(self) -> np.ndarray:
        """bool `[M]`: false negatives without a detection whose class or box alone is wrong."""
        fixable = self.objects[np.isin(self.status, (_CLASSIFICATION, _LOCALISATION))]
        missed = ~self.found
        missed[fixable] = False
        return missed


@dataclass(frozen=True)
class ErrorBreakdown:
    """How often each error type occurs, and ΔAP: the rise in AP without it; AP at one IoU, 0..1.

    ΔAP does not add up: each is of fixing one type alone.
    """

    ap: float  # at the foreground threshold; NaN without objects
    counts: dict[str, int]  # by type
    delta_ap: dict[str, float]  # by type
    delta_ap_false_positives: float  # of removing every false positive
    delta_ap_false_negatives: float  # of counting only the objects that were matched
    foreground: float  # IoU from which a detection can match
    background: float  # IoU up to which it is background

    def rows(self) -> list[dict[str, Any]]:
        """A table: error type, count, ΔAP."""
        return [{"error": name, "count": self.counts[name], "ΔAP": self.delta_ap[name]} for name in ERROR_TYPES]


def match_detections(images: Sequence[ImageBoxes], *, foreground: float = 0.5, background: float = 0.1) -> Matches:
    """Match detections with objects as COCO does, by falling score, and give every false positive its error type.

    Args:
        images: as `boxes_by_image` gives them.
        foreground: IoU from which a detection can match an object.
        background: IoU up to which a detection is on no object.

    Raises:
        ValueError: thresholds that are not 0 < background < foreground <= 1.

    Source: section 2 of the paper; the order in which types are tried is that of its code (tidecv 1.0.1), but a
    detection on an ignored object of its class, or inside a crowd region, is left out altogether.
    """
    if not 0 < background < foreground <= 1:
        raise ValueError(f"thresholds should be 0 < background < foreground <= 1, got {background} and {foreground}")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in Matches.__dataclass_fields__}
    before = 0  # objects of earlier images
    for i, image in enumerate(tqdm(images, desc="match", unit="image", leave=False, disable=len(images) < 500)):
        status, objects, found = _match_image(image, foreground, background)
        real = ~image.true_ignored
        values = {
            "labels": image.labels,
            "scores": image.scores,
            "status": status,
            "objects": np.where(objects >= 0, objects + before, -1),
            "images": np.full(len(status), i),
            "object_labels": image.true_labels[real],
            "object_images": np.full(real.sum(), i),
            "found": found,
        }
        for name, value in values.items():
            parts[name].append(value)
        before += int(real.sum())
    types = {"scores": np.float64, "found": bool}
    return Matches(**{
        name: np.concatenate([np.zeros(0), *columns]).astype(types.get(name, np.int64))
        for name, columns in parts.items()
    })  # fmt: skip


def error_breakdown(
    images: Sequence[ImageBoxes], *, foreground: float = 0.5, background: float = 0.1
) -> ErrorBreakdown:
    """Count the errors of each type, and fix each type alone to measure its ΔAP.

    Fixing gives a detection with a wrong class or box the correct one, if it has the highest score of both types on a
    false negative, and removes it otherwise. Detections of the other types are removed, missed objects no longer count.

    Args:
        images: as `boxes_by_image` gives them.
        foreground, background: as in `match_detections`.

    Raises:
        ValueError: as in `match_detections`.

    Source: section 2.3 of the paper; equal to its code (tidecv 1.0.1) but for crowds, see `match_detections`, an IoU
    that is exactly a threshold, and rounding where a recall falls on a hundredth: here as in COCO's evaluation.
    """
    matches = match_detections(images, foreground=foreground, background=background)
    num_objects = np.bincount(matches.object_labels) if len(matches.object_labels) else np.zeros(0, np.int64)
    counted = matches.status != IGNORED
    labels, scores, status = (column[counted] for column in (matches.labels, matches.scores, matches.status))
    objects, correct = matches.objects[counted], status == TRUE_POSITIVE
    classes = np.flatnonzero(num_objects)  # COCO's mean is over the classes that have objects
    ap = _mean_ap(labels, scores, correct, num_objects, classes)

    fixable = np.isin(status, (_CLASSIFICATION, _LOCALISATION))
    best = _best_on_false_negatives(fixable, objects, scores, matches.found)
    after: dict[str, float] = {}
    for number, name in enumerate(ERROR_TYPES[:-1]):
        own = status == number
        fixed = own & best
        kept = ~own | fixed
        new_labels = labels.copy()
        new_labels[fixed] = matches.object_labels[objects[fixed]]
        after[name] = _mean_ap(new_labels[kept], scores[kept], (correct | fixed)[kept], num_objects, classes)
    lost = np.bincount(matches.object_labels[matches.missed], minlength=len(num_objects))
    after["missed"] = _mean_ap(labels, scores, correct, num_objects - lost, classes)
    hits = np.bincount(matches.object_labels[matches.found], minlength=len(num_objects))
    return ErrorBreakdown(
        ap=ap,
        counts={name: int((status == n).sum()) for n, name in enumerate(ERROR_TYPES[:-1])}
        | {"missed": int(lost.sum())},
        delta_ap={name: after[name] - ap for name in ERROR_TYPES},
        delta_ap_false_positives=_mean_ap(labels[correct], scores[correct], correct[correct], num_objects, classes)
        - ap,
        delta_ap_false_negatives=_mean_ap(labels, scores, correct, hits, classes) - ap,
        foreground=foreground,
        background=background,
    )


def confusion_matrix(
    images: Iterable[ImageBoxes], num_classes: int, *, score: float = 0.4, iou: float = 0.5
) -> np.ndarray:
    """The confusion matrix of a detector.

    Detections match objects of their own class first, by falling score, so the diagonal counts COCO's true positives;
    unmatched detections then match unmatched objects of other classes. A detection on an ignored object of its class,
    or inside a crowd region, is left out.

    Args:
        images: as `boxes_by_image` gives them.
        num_classes: C.
        score: leave out detections below it.
        iou: IoU from which a detection can match an object.

    Returns:
        int64 `[C + 1, C + 1]`: row the true class, column the detected one. The last row is false positives on no
        object, the last column false negatives.

    Raises:
        ValueError: a label outside 0..C-1, or `iou` not in 0..1.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou should be above 0 and at most 1, got {iou}")
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in images:
        image = image.above(score)
        every = np.concatenate([image.true_labels, image.labels])
        if len(every) and not 0 <= every.min() <= every.max() < num_classes:
            raise ValueError(f"image id {image.image_id}: labels {every.min()} to {every.max()} for {num_classes}")
        true_labels, (overlap, on_ignored) = image.true_labels[~image.true_ignored], _overlaps(image)
        same = image.labels[:, None] == true_labels
        taken = _match(np.where(same, overlap, 0), iou)
        taken = np.where((taken < 0) & _on_ignored(image, on_ignored, iou), IGNORED, taken)
        free = np.ones(len(true_labels), dtype=bool)
        free[taken[taken >= 0]] = False
        other = _match(np.where(free & (taken == -1)[:, None], overlap, 0), iou)
        taken = np.where(taken == -1, other, taken)
        free[taken[taken >= 0]] = False
        hit = taken >= 0
        np.add.at(matrix, (true_labels[taken[hit]], image.labels[hit]), 1)
        np.add.at(matrix, (num_classes, image.labels[taken == -1]), 1)
        np.add.at(matrix, (true_labels[free], num_classes), 1)
    return matrix


@dataclass(frozen=True)
class ImageErrors:
    """The errors in one image, above some score."""

    index: int  # in the list
    image_id: int
    objects: int
    false_negatives: int
    false_positives: int


def worst_images(
    images: Sequence[ImageBoxes], *, score: float = 0.4, iou: float = 0.5, most: int | None = None
) -> list[ImageErrors]:
    """Images with the most false negatives and false positives, worst first; those without an error are left out.

    Args:
        images: as `boxes_by_image` gives them.
        score: leave out detections below it.
        iou: IoU from which a detection can match.
        most: at most so many.

    Raises:
        ValueError: `iou` not above 0.1 and at most 1.
    """
    matches = match_detections([image.above(score) for image in images], foreground=iou)
    count = lambda indices: np.bincount(indices, minlength=len(images))  # noqa: E731
    objects = count(matches.object_images)
    missed = count(matches.object_images[~matches.found])
    false = count(matches.images[matches.status >= 0])
    order = np.argsort(-(missed + false), kind="stable")
    order = [int(i) for i in order if missed[i] + false[i]][:most]
    return [ImageErrors(i, images[i].image_id, int(objects[i]), int(missed[i]), int(false[i])) for i in order]


def _match_image(image: ImageBoxes, foreground: float, background: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`status` and `objects` of K detections, `found` of the G objects that count."""
    true_labels, (overlap, on_ignored) = image.true_labels[~image.true_ignored], _overlaps(image)
    same = image.labels[:, None] == true_labels  # [K, G]
    own, other = np.where(same, overlap, 0), np.where(same, 0, overlap)
    taken = _match(own, foreground)
    found = np.zeros(len(true_labels), dtype=bool)
    found[taken[taken >= 0]] = True
    best_own, best_other = own.max(1, initial=0), other.max(1, initial=0)
    rules = [
        (taken >= 0, TRUE_POSITIVE, taken),
        (_on_ignored(image, on_ignored, foreground), IGNORED, None),
        ((best_own >= background) & (best_own < foreground), _LOCALISATION, own),
        (best_other >= foreground, _CLASSIFICATION, other),
        (best_own >= foreground, _DUPLICATE, own),
        (np.maximum(best_own, best_other) <= background, _BACKGROUND, None),
        (np.ones(len(taken), dtype=bool), _BOTH, None),
    ]
    status, objects = np.full(len(taken), _BOTH), np.full(len(taken), -1)
    for holds, value, about in reversed(rules):  # the first rule that holds has the last word
        status[holds] = value
        if about is None or not len(true_labels):
            objects[holds] = -1
        else:
            objects[holds] = (about if about.ndim == 1 else about.argmax(1))[holds]
    return status, objects, found


def _match(overlap: np.ndarray, least: float) -> np.ndarray:
    """Object of each detection, -1 for none: detections choose by falling score, of equal IoUs the later object."""
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

    found, true = (
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        for boxes in (image.boxes_xyxy, image.true_boxes_xyxy)
    )
    iou = np.zeros((len(found), len(true)))
    if iou.size:
        iou[:] = mask.iou(found, true, image.true_iscrowd.astype(int).tolist())
    return iou[:, ~image.true_ignored], iou[:, image.true_ignored]


def _on_ignored(image: ImageBoxes, overlap: np.ndarray, least: float) -> np.ndarray:
    """Whether a detection overlaps an ignored object of its class so much, bool `[K]`."""
    same = image.labels[:, None] == image.true_labels[image.true_ignored]
    return (same & (overlap >= min(least, 1 - 1e-10))).any(1)


def _best_on_false_negatives(
    fixable: np.ndarray, objects: np.ndarray, scores: np.ndarray, found: np.ndarray
) -> np.ndarray:
    """bool `[K]`: of those that can be fixed, the one of the highest score on every false negative."""
    chosen = np.zeros(len(fixable), dtype=bool)
    which = np.flatnonzero(fixable & (objects >= 0))
    which = which[~found[objects[which]]]
    which = which[np.argsort(-scores[which], kind="stable")]
    chosen[which[np.unique(objects[which], return_index=True)[1]]] = True
    return chosen


def _mean_ap(
    labels: np.ndarray, scores: np.ndarray, correct: np.ndarray, num_objects: np.ndarray, classes: np.ndarray
) -> float:
    """Mean of COCO's 101-point average precision over `classes`; NaN without classes. A class of 0 objects has 0."""
    if not len(classes):
        return float("nan")
    return float(np.mean([_ap(scores[labels == c], correct[labels == c], int(num_objects[c])) for c in classes]))


def _ap(scores: np.ndarray, correct: np.ndarray, objects: int) -> float:
    if not objects or not len(scores):
        return 0.0
    hits = np.cumsum(correct[np.argsort(-scores, kind="stable")])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / objects
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())
