"""The twelve COCO numbers, by faster-coco-eval (equal to pycocotools)."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import nn
from tqdm.auto import tqdm

from dfine_lib.evaluate.postprocess import Detections, postprocess

logger = logging.getLogger(__name__)


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
        # One entry per image: image id [K], category id [K], box xywh in pixels [K, 4], score [K].
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

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
            self._parts.append((ids_of_boxes, self.category_ids[labels], xywh, _float64(found.scores)))

    def gather(self) -> None:
        """Exchange detections between all ranks, so that each holds all. Collective: every rank calls it.

        Without an initialised process group it does nothing.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, (sorted(self._seen), self._stacked()))
        self.reset()
        for seen, (image_ids, category_ids, xywh, scores) in everyone:
            new = np.isin(image_ids, [i for i in seen if i not in self._seen])
            self._parts.append((image_ids[new], category_ids[new], xywh[new], scores[new]))
            self._seen.update(seen)

    def metrics(self) -> CocoMetrics:
        """Score what was added. Images without detections count as missed."""
        found = COCO()
        found.dataset = {"images": self._images, "annotations": self._as_annotations(), "categories": []}
        found.createIndex()
        run = COCOeval_faster(self._ground_truth, found, iouType="bbox", print_function=logger.debug)
        run.params.imgIds = sorted(self._scored_images)
        run.evaluate()
        run.accumulate()
        run.summarize()
        precision = run.eval["precision"][:, :, :, 0, -1]  # [10 IoU thresholds, 101 recalls, C]; all areas, 100 boxes
        by_id = dict(zip(run.params.catIds, map(_mean, np.moveaxis(precision, 2, 0)), strict=True))
        per_class = {name: by_id[i] for i, name in self._names.items()}
        return CocoMetrics(*(float(v) if v >= 0 else math.nan for v in run.stats[:12]), per_class=per_class)

    def _stacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
        return tuple(np.concatenate(column) for column in zip(empty, *self._parts, strict=True))

    def _as_annotations(self) -> list[dict[str, Any]]:
        """The library takes a dictionary per box; they live only while it runs."""
        stacked = self._stacked()
        sound = np.isfinite(stacked[2]).all(1) & np.isfinite(stacked[3])
        if not sound.all():
            logger.warning("left out %d detections with a score or a box that is not finite", (~sound).sum())
        image_ids, category_ids, xywh, scores = (column[sound] for column in stacked)
        areas = xywh[:, 2] * xywh[:, 3]
        columns = (image_ids.tolist(), category_ids.tolist(), xywh.tolist(), scores.tolist(), areas.tolist())
        return [
            {"id": n, "image_id": image, "category_id": category, "bbox": box, "score": score, "area": area}
            for n, (image, category, box, score, area) in enumerate(zip(*columns, strict=True), start=1)
        ]


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
    try:
        with torch.inference_mode():
            for batch in tqdm(loader, desc="evaluate", unit="batch", leave=False, dynamic_ncols=True):
                outputs = model(batch.images.to(device, non_blocking=True))
                evaluator.add(batch.image_ids, postprocess(outputs, batch.sizes_wh, top_k))
    finally:
        model.train(was_training)
    if distributed:
        evaluator.gather()
    return evaluator.metrics()


def _read(annotation_file: str | os.PathLike[str] | dict[str, Any]) -> tuple[dict[str, Any], str]:
    if isinstance(annotation_file, dict):
        return annotation_file, "ground truth"
    path = Path(annotation_file)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a COCO file is a dictionary with images and annotations, got {type(data).__name__}")
    return data, str(path)


def _annotation(number: int, annotation: dict[str, Any], name: str) -> dict[str, Any]:
    """What scoring reads of one annotation, under a number from 1."""
    missing = [key for key in ("image_id", "category_id", "bbox") if key not in annotation]
    if missing:
        raise ValueError(f"{name}: annotation id {annotation.get('id', '(none)')} has no {missing[0]!r}")
    box = [float(v) for v in annotation["bbox"]]
    area = annotation.get("area")
    return {
        "id": number,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": box,
        "area": box[2] * box[3] if area is None else float(area),
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }


def _float64(values: Any) -> np.ndarray:
    return np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)


def _mean(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) and value >= 0 else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
