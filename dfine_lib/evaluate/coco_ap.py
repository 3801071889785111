"""The twelve COCO numbers, by faster-coco-eval (equal to pycocotools)."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import nn
from tqdm.auto import tqdm

from dfine_lib.data.coco_json import read_json
from dfine_lib.evaluate.postprocess import Detections, ImageBoxes, postprocess
from dfine_lib.model.compilation import or_eager

logger = logging.getLogger(__name__)
_BOXES_AT_ONCE = 100_000  # detections that the library holds as dictionaries at a time, about 1.5 kB each


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's average precision (AP) and recall (AR), 0..1; NaN where there is nothing to measure.

    Small, medium and large are areas below 32², up to 96² and above, in pixels of the original image.
    """

    ap: float  # mean over IoU 0.50, 0.55, ..., 0.95
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float  # at most 1 detection per image and class
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float] = field(default_factory=dict)  # AP by class name, in the file's order

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: numbers as floats, None where there is nothing to measure."""
        numbers = {f.name: _finite_or_none(getattr(self, f.name)) for f in fields(self) if f.name != "per_class"}
        return numbers | {"per_class": {name: _finite_or_none(ap) for name, ap in self.per_class.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CocoMetrics:
        """Back from `to_dict`."""
        numbers = {f.name: _or_nan(values[f.name]) for f in fields(cls) if f.name != "per_class"}
        return cls(**numbers, per_class={name: _or_nan(ap) for name, ap in values["per_class"].items()})


class _Boxes(NamedTuple):
    """Detections of many images, as columns."""

    image_ids: np.ndarray  # int64 [K]
    category_ids: np.ndarray  # int64 [K]
    xywh: np.ndarray  # float64 [K, 4] pixels
    scores: np.ndarray  # float64 [K]

    def take(self, which: np.ndarray) -> _Boxes:
        """Those of a mask or of indices."""
        return _Boxes(*(column[which] for column in self))

    def as_annotations(self) -> list[dict[str, Any]]:
        """The library takes a dictionary per box; they live only while it runs."""
        columns = (column.tolist() for column in (*self, self.xywh[:, 2] * self.xywh[:, 3]))
        return [
            {"id": n, "image_id": image, "category_id": category, "bbox": box, "score": score, "area": area}
            for n, (image, category, box, score, area) in enumerate(zip(*columns, strict=True), start=1)
        ]


class CocoEvaluator:
    """Collects detections image by image, then scores them against a COCO file.

    The ground truth is the untouched file: crowd regions swallow detections, boxes are not clamped. A file without
    `area` or `iscrowd` gets width * height and 0. Annotations are renumbered, so that an annotation id of 0 counts:
    pycocotools takes such an object for unmatched, whatever is found there.
    """

    def __init__(
        self,
        annotation_file: str | os.PathLike[str] | dict[str, Any],
        category_ids: Sequence[int] | None = None,
        image_ids: Iterable[int] | None = None,
    ) -> None:
        """
        Args:
            annotation_file: COCO instances JSON, or its contents.
            category_ids: the file's category id of each label 0..C-1; default: the file's own, rising. A label
                whose id the file lacks is not scored.
            image_ids: score these images only; default: all of the file, seen or not.

        Raises:
            ValueError: the file lacks `images` or `annotations`, or is not JSON, or lacks one of `image_ids`.
        """
        data, name = _read(annotation_file)
        for key in ("images", "annotations"):
            if key not in data:
                raise ValueError(f"{name}: no {key!r} in this COCO file")
        annotations = [_annotation(number, a, name) for number, a in enumerate(data["annotations"], start=1)]
        categories = data.get("categories") or [{"id": i} for i in sorted({a["category_id"] for a in annotations})]
        self._names = {int(c["id"]): str(c.get("name", c["id"])) for c in categories}
        self._images = [{"id": image["id"]} for image in data["images"]]
        known = {image["id"] for image in self._images}
        self._scored_images = known if image_ids is None else {int(i) for i in image_ids}
        if not self._scored_images <= known:
            raise ValueError(f"{name}: no image with id {sorted(self._scored_images - known)[:5]}")
        self.category_ids = np.asarray(sorted(self._names) if category_ids is None else category_ids, dtype=np.int64)
        categories = [{"id": i, "name": n} for i, n in self._names.items()]
        self._ground_truth = COCO({"images": self._images, "annotations": annotations, "categories": categories})
        self._known = known
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._seen: set[int] = set()
        self._parts: list[_Boxes] = []

    def add(self, image_ids: Iterable[int] | torch.Tensor, detections: Sequence[Detections]) -> None:
        """Take in the detections of some images. An image that was seen before is left as it is: samplers pad.

        Raises:
            ValueError: an image id that the file does not have, a label outside 0..C-1, or lists of unequal length.
        """
        ids = [int(i) for i in image_ids]
        if len(ids) != len(detections):
            raise ValueError(f"{len(ids)} image ids for {len(detections)} lists of detections")
        for image_id, found in zip(ids, detections, strict=True):
            if image_id not in self._known:
                raise ValueError(f"image id {image_id} is not in the ground truth")
            if image_id in self._seen:
                continue
            labels = np.asarray(found.labels.cpu() if isinstance(found.labels, torch.Tensor) else found.labels)
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.category_ids):
                raise ValueError(
                    f"image id {image_id}: labels {labels.min()} to {labels.max()} for {len(self.category_ids)} classes"
                )
            xyxy = _float64(found.boxes_xyxy).reshape(-1, 4)
            xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
            self._seen.add(image_id)
            ids_of_boxes = np.full(len(labels), image_id, dtype=np.int64)
            self._parts.append(_Boxes(ids_of_boxes, self.category_ids[labels], xywh, _float64(found.scores)))

    def gather(self) -> None:
        """Exchange detections between all ranks, so that each holds all. Collective: every rank calls it.

        Without an initialised process group it does nothing.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, (sorted(self._seen), tuple(self._stacked())))
        self.reset()
        for seen, columns in everyone:
            boxes = _Boxes(*columns)
            self._parts.append(boxes.take(np.isin(boxes.image_ids, [i for i in seen if i not in self._seen])))
            self._seen.update(seen)

    def metrics(self) -> CocoMetrics:
        """Score what was added. Images without detections count as missed."""
        ids = sorted(self._names)
        if not ids:
            return CocoMetrics(*[math.nan] * 12)
        precision, recall = self._scores()  # [10 IoUs, 101 recalls, C, 4 areas, 3 limits], [10 IoUs, C, 4 areas, 3]
        by_id = {i: _mean(precision[:, :, k, 0, -1]) for k, i in enumerate(ids)}
        return CocoMetrics(
            *(_mean(precision[iou, :, :, 0, -1]) for iou in (slice(None), 0, 5)),
            *(_mean(precision[:, :, :, area, -1]) for area in (1, 2, 3)),
            *(_mean(recall[:, :, 0, limit]) for limit in (0, 1, 2)),
            *(_mean(recall[:, :, area, -1]) for area in (1, 2, 3)),
            per_class={name: by_id[i] for i, name in self._names.items()},
        )

    @property
    def class_names(self) -> list[str]:
        """Of the file's categories, by rising id: what the labels in `by_image` mean."""
        return [self._names[i] for i in sorted(self._names)]

    def precision(self) -> np.ndarray:
        """Precision `[10, 101, C]` at IoU 0.50, 0.55, …, 0.95, at recall 0, 0.01, …, 1, of each class.

        Interpolated as COCO does: the best precision at that recall or a higher one. NaN for a class without objects.
        """
        if not self._names:
            return np.zeros((10, 101, 0))
        precision = self._scores()[0][:, :, :, 0, -1]
        return np.where(precision < 0, np.nan, precision)

    def by_image(self) -> list[ImageBoxes]:
        """The scored images by rising id, each with its objects and those of its detections that COCO looks at.

        Labels are places in `class_names`; detections of a category that the file lacks are left out.
        """
        ids = np.array(sorted(self._names))
        boxes = self._countable()
        boxes = boxes.take(np.isin(boxes.category_ids, ids))
        boxes = boxes.take(np.argsort(-boxes.scores, kind="stable"))
        boxes = boxes.take(np.argsort(boxes.image_ids, kind="stable"))
        images = sorted(self._scored_images)
        start = np.searchsorted(boxes.image_ids, images, side="left")
        end = np.searchsorted(boxes.image_ids, images, side="right")
        truths = [self._ground_truth.imgToAnns.get(image_id, []) for image_id in images]
        parts = [boxes.take(np.arange(first, last)) for first, last in zip(start, end, strict=True)]
        return [
            ImageBoxes(
                image_id=image_id,
                truth_labels=np.searchsorted(ids, [a["category_id"] for a in truth]).astype(np.int64),
                truth_boxes_xyxy=_to_xyxy(np.array([a["bbox"] for a in truth], dtype=np.float64).reshape(-1, 4)),
                truth_iscrowd=np.array([bool(a["iscrowd"]) for a in truth], dtype=bool),
                labels=np.searchsorted(ids, own.category_ids).astype(np.int64),
                boxes_xyxy=_to_xyxy(own.xywh),
                scores=own.scores,
            )
            for image_id, truth, own in zip(images, truths, parts, strict=True)
        ]

    def _scores(self) -> tuple[np.ndarray, np.ndarray]:
        """As `_score`, of all classes. They are independent of each other: scored some at a time, memory is bounded."""
        found, ids = self._countable(), sorted(self._names)
        counts = np.array([(found.category_ids == i).sum() for i in ids])
        chunk = np.cumsum(counts) // _BOXES_AT_ONCE
        parts = [self._score(found, [i for i, c in zip(ids, chunk, strict=True) if c == k]) for k in np.unique(chunk)]
        return np.concatenate([p for p, _ in parts], axis=2), np.concatenate([r for _, r in parts], axis=1)

    def _score(self, found: _Boxes, category_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """COCO's precision `[10, 101, C, 4, 3]` and recall `[10, C, 4, 3]` of these classes; -1 is not measured."""
        own = COCO()
        own.dataset = {
            "images": self._images,
            "annotations": found.take(np.isin(found.category_ids, category_ids)).as_annotations(),
        }
        own.createIndex()
        run = COCOeval_faster(self._ground_truth, own, iouType="bbox", print_function=logger.debug)
        run.params.imgIds, run.params.catIds = sorted(self._scored_images), category_ids
        run.evaluate()
        run.accumulate()
        return run.eval["precision"], run.eval["recall"]

    def _countable(self) -> _Boxes:
        """Finite detections, of each image and class the best 100: COCO looks at no more."""
        boxes = self._stacked()
        sound = np.isfinite(boxes.xywh).all(1) & np.isfinite(boxes.scores)
        if not sound.all():
            logger.warning("left out %d detections with a score or a box that is not finite", (~sound).sum())
            boxes = boxes.take(sound)
        order = np.lexsort((-boxes.scores, boxes.category_ids, boxes.image_ids))  # stable: ties stay in their order
        groups = np.stack([boxes.image_ids, boxes.category_ids])[:, order]
        is_first = np.r_[True, (np.diff(groups) != 0).any(0)] if len(order) else np.zeros(0, bool)
        start = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
        kept = order[np.arange(len(order)) - start < 100]
        return boxes.take(np.sort(kept))

    def _stacked(self) -> _Boxes:
        empty = _Boxes(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
        return _Boxes(*map(np.concatenate, zip(empty, *self._parts, strict=True)))


def evaluate_model(
    model: nn.Module,
    loader: Iterable[Any],
    evaluator: CocoEvaluator | str | os.PathLike[str] | dict[str, Any],
    device: torch.device | str,
    top_k: int = 300,
    distributed: bool = False,
) -> CocoMetrics:
    """Run a model over a validation set and score it.

    Args:
        model: maps images to an output with `pred_logits` and `pred_boxes`; left in the mode it was found in.
        loader: batches with `images` `[B, 3, H, W]`, `image_ids` (B) and `sizes_wh` `[B, 2]` in pixels.
        evaluator: filled anew; or the COCO file to make one from, labels then meaning `loader.index.category_ids`.
        device: where the model is.
        top_k: most detections per image.
        distributed: gather the detections of all ranks; every rank must call, and every rank gets the same numbers.

    Returns:
        The twelve numbers and the AP of each class.
    """
    if not isinstance(evaluator, CocoEvaluator):
        evaluator = CocoEvaluator(evaluator, getattr(getattr(loader, "index", None), "category_ids", None))
    evaluator.reset()
    was_training = model.training
    model.eval()
    quiet = distributed and torch.distributed.get_rank() > 0
    try:
        with torch.inference_mode():
            for batch in tqdm(loader, "evaluate", unit="batch", leave=False, dynamic_ncols=True, disable=quiet):
                outputs = or_eager(model, model, batch.images.to(device, non_blocking=True))
                outputs = _without_spare_rows(outputs, evaluator)
                evaluator.add(batch.image_ids, postprocess(outputs, batch.sizes_wh, top_k))
    finally:
        model.train(was_training)
    if distributed:
        evaluator.gather()
    return evaluator.metrics()


def _without_spare_rows(outputs: Any, evaluator: CocoEvaluator) -> Any:
    """Published Objects365 models have a 366th row that stands for no class: leave it out of the ranking."""
    if outputs.pred_logits.shape[-1] != len(evaluator.category_ids) + 1:
        return outputs
    return replace(outputs, pred_logits=outputs.pred_logits[..., :-1])


def _read(annotation_file: str | os.PathLike[str] | dict[str, Any]) -> tuple[dict[str, Any], str]:
    if isinstance(annotation_file, dict):
        return annotation_file, "ground truth"
    return read_json(Path(annotation_file)), str(annotation_file)


def _annotation(number: int, annotation: dict[str, Any], name: str) -> dict[str, Any]:
    """What scoring reads of one annotation, under a number from 1."""
    missing = [key for key in ("image_id", "category_id", "bbox") if key not in annotation]
    if missing:
        raise ValueError(f"{name}: annotation id {annotation.get('id', '(none)')} has no {missing[0]!r}")
    box = [float(v) for v in annotation["bbox"]]
    area = annotation.get("area")
    try:
        area = box[2] * box[3] if area is None else float(area)
    except (TypeError, ValueError) as error:
        identity = annotation.get("id", "(none)")
        raise ValueError(f"{name}: annotation id {identity}: 'area' should be a number, got {area!r}") from error
    return {
        "id": number,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": box,
        "area": area,
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }


def _float64(values: Any) -> np.ndarray:
    return np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)


def _to_xyxy(xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _mean(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) and value >= 0 else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
