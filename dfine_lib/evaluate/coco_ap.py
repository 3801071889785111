"""The twelve COCO numbers, equal to those of pycocotools."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from dfine_lib.data.coco_json import is_set, read_json
from dfine_lib.evaluate.coco_matching import Found, Objects
from dfine_lib.evaluate.coco_precision import Scores, countable, score
from dfine_lib.evaluate.postprocess import Detections, ImageBoxes, postprocess

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
    `area` or `iscrowd` gets width * height and 0. Ids of annotations are not read: pycocotools takes an object with
    id 0 for unmatched, whatever is found there.

    Objects marked `ignore` or `difficult` are ignored, as PASCAL VOC ignores difficult ones: neither missed, nor are
    detections on them false, however many. pycocotools reads `iscrowd` alone; how many are ignored is logged.
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
        truths = [_annotation(a, name) for a in data["annotations"]]
        marked = sum(ignored and not iscrowd for *_, iscrowd, ignored in truths)
        if marked:
            logger.info("%s: %d objects marked ignore or difficult are ignored in the evaluation", name, marked)
        if all(truth[-1] for truth in truths):
            logger.warning("%s: no boxes that count, so there is no AP to measure on it", name)
        categories = data.get("categories") or [{"id": i} for i in sorted({t[1] for t in truths})]
        self._names = {int(c["id"]): str(c.get("name", c["id"])) for c in categories}
        self._class_ids = sorted(self._names)
        self._image_ids = sorted({image["id"] for image in data["images"]})
        self._place = {image_id: place for place, image_id in enumerate(self._image_ids)}
        scored = self._image_ids if image_ids is None else sorted({int(i) for i in image_ids})
        unknown = [i for i in scored if i not in self._place]
        if unknown:
            raise ValueError(f"{name}: no image with id {unknown[:5]}")
        self._scored = np.array([self._place[i] for i in scored], dtype=np.int64)
        classes = {category_id: place for place, category_id in enumerate(self._class_ids)}
        self._objects = _columns(truths, self._place, classes)
        self.category_ids = np.asarray(self._class_ids if category_ids is None else category_ids, dtype=np.int64)
        self._class_of_label = np.array([classes.get(int(i), -1) for i in self.category_ids], dtype=np.int32)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._seen: set[int] = set()  # places of images
        self._parts: list[Found] = []

    def add(self, image_ids: Iterable[int] | torch.Tensor, detections: Sequence[Detections]) -> None:
        """Take in the detections of some images. An image that was seen before is left as it is: samplers pad.

        Raises:
            ValueError: an image id that the file does not have, a label outside 0..C-1, or lists of unequal length.
        """
        ids = image_ids.tolist() if isinstance(image_ids, torch.Tensor) else [int(i) for i in image_ids]
        if len(ids) != len(detections):
            raise ValueError(f"{len(ids)} image ids for {len(detections)} lists of detections")
        for image_id, found in zip(ids, detections, strict=True):
            if image_id not in self._place:
                raise ValueError(f"image id {image_id} is not in the ground truth")
            place = self._place[image_id]
            if place in self._seen:
                continue
            labels = _array(found.labels)
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.category_ids):
                raise ValueError(
                    f"image id {image_id}: labels {labels.min()} to {labels.max()} for {len(self.category_ids)} classes"
                )
            self._seen.add(place)
            if len(labels):
                images = np.full(len(labels), place, dtype=np.int32)
                boxes, scores = _array(found.boxes_xyxy).reshape(-1, 4), _array(found.scores)
                self._parts.append(Found(images, self._class_of_label[labels], boxes, scores))

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
            found = Found(*columns)
            self._parts.append(found.take(np.isin(found.images, [i for i in seen if i not in self._seen])))
            self._seen.update(seen)

    def metrics(self) -> CocoMetrics:
        """Score what was added. Images without detections count as missed."""
        if not self._class_ids:
            return CocoMetrics(*[math.nan] * 12)
        precision, recall, recall_of_few = self._scores()
        by_id = {i: _mean(precision[:, :, k, 0]) for k, i in enumerate(self._class_ids)}
        return CocoMetrics(
            *(_mean(precision[iou, :, :, 0]) for iou in (slice(None), 0, 5)),
            *(_mean(precision[:, :, :, area]) for area in (1, 2, 3)),
            *(_mean(recall_of_few[:, :, few]) for few in (0, 1)),
            *(_mean(recall[:, :, area]) for area in (0, 1, 2, 3)),
            per_class={name: by_id[i] for i, name in self._names.items()},
        )

    @property
    def class_names(self) -> list[str]:
        """Of the file's categories, by rising id: what the labels in `by_image` mean."""
        return [self._names[i] for i in self._class_ids]

    def precision(self) -> np.ndarray:
        """Precision `[10, 101, C]` at IoU 0.50, 0.55, …, 0.95, at recall 0, 0.01, …, 1, of each class.

        Interpolated as COCO does: the best precision at that recall or a higher one. NaN for a class without objects.
        """
        precision = self._scores().precision[:, :, :, 0]
        return np.where(precision < 0, np.nan, precision)

    def by_image(self) -> list[ImageBoxes]:
        """The scored images by rising id, each with its objects and those of its detections that COCO looks at.

        Labels are places in `class_names`; detections of a category that the file lacks are left out.
        """
        objects, found = self._objects, self._sound()
        by_score = countable(found, len(self._class_ids)).by_score
        found = found.take(by_score[np.argsort(found.images[by_score], kind="stable")])
        objects = objects.take(np.argsort(objects.images, kind="stable"))
        of_found, of_objects = _stretches(found.images, self._scored), _stretches(objects.images, self._scored)
        images = []
        for place, mine, there in zip(self._scored.tolist(), of_found, of_objects, strict=True):
            xywh = objects.boxes_xywh[there]
            images.append(ImageBoxes(
                image_id=self._image_ids[place],
                truth_labels=objects.classes[there],
                truth_boxes_xyxy=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
                truth_iscrowd=objects.iscrowd[there],
                truth_ignored=objects.ignored[there],
                labels=found.classes[mine].astype(np.int64),
                boxes_xyxy=found.boxes_xyxy[mine].astype(np.float64),
                scores=found.scores[mine].astype(np.float64),
            ))  # fmt: skip
        return images

    def _scores(self) -> Scores:
        """Of the scored images; classes by rising id."""
        objects = self._objects
        objects = objects.take(np.isin(objects.images, self._scored))
        return score(objects, self._sound(), len(self._class_ids))

    def _sound(self) -> Found:
        """Finite detections in scored images, of the file's classes; images rising."""
        found = self._stacked()
        finite = np.isfinite(found.boxes_xyxy).all(1) & np.isfinite(found.scores)
        if not finite.all():
            logger.warning("left out %d detections with a score or a box that is not finite", (~finite).sum())
        wanted = np.zeros(len(self._image_ids), bool)
        wanted[self._scored] = True
        kept = finite & (found.classes >= 0) & wanted[found.images]
        found = found if kept.all() else found.take(kept)
        if (np.diff(found.images) < 0).any():
            found = found.take(np.argsort(found.images, kind="stable"))
        return found

    def _stacked(self) -> Found:
        """All detections as they came; from now on kept as one part."""
        if not self._parts:
            return Found(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 4), np.float32), np.zeros(0))
        if len(self._parts) > 1:
            self._parts = [Found(*map(np.concatenate, zip(*self._parts, strict=True)))]
        return self._parts[0]


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

    Raises:
        ValueError: the model has another number of classes than the evaluator.
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
                outputs = model(batch.images.to(device, non_blocking=True))
                if (rows := outputs.pred_logits.shape[-1]) != len(evaluator.category_ids):
                    raise ValueError(f"a model of {rows} classes, for an evaluation of {len(evaluator.category_ids)}")
                evaluator.add(batch.image_ids, postprocess(outputs, batch.sizes_wh, top_k))
    finally:
        model.train(was_training)
    if distributed:
        evaluator.gather()
    return evaluator.metrics()


def _read(annotation_file: str | os.PathLike[str] | dict[str, Any]) -> tuple[dict[str, Any], str]:
    if isinstance(annotation_file, dict):
        return annotation_file, "ground truth"
    return read_json(Path(annotation_file)), str(annotation_file)


_Truth = tuple[int, int, list[float], float, bool, bool]  # image id, category id, xywh, area, iscrowd, ignored


def _annotation(annotation: dict[str, Any], name: str) -> _Truth:
    """What scoring reads of one annotation."""
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
    iscrowd = bool(int(annotation.get("iscrowd") or 0))
    ignored = iscrowd or is_set(annotation.get("ignore")) or is_set(annotation.get("difficult"))
    return annotation["image_id"], annotation["category_id"], box, area, iscrowd, ignored


def _columns(truths: list[_Truth], images: dict[int, int], classes: dict[int, int]) -> Objects:
    """Those of known images and classes, by place."""
    known = [(images[i], classes[c], *rest) for i, c, *rest in truths if i in images and c in classes]
    places, labels, boxes, areas, iscrowd, ignored = zip(*known, strict=True) if known else ((),) * 6
    return Objects(
        np.array(places, np.int64), np.array(labels, np.int64), np.array(boxes, np.float64).reshape(-1, 4),
        np.array(areas, np.float64), np.array(iscrowd, bool), np.array(ignored, bool),
    )  # fmt: skip


def _array(values: Any) -> np.ndarray:
    """A copy of its own: what was handed in may change, or belong to a larger tensor."""
    return values.cpu().numpy().copy() if isinstance(values, torch.Tensor) else np.array(values)


def _stretches(rising: np.ndarray, values: np.ndarray) -> list[slice]:
    """Where each value stands in a rising column."""
    ends = (np.searchsorted(rising, values, side=side).tolist() for side in ("left", "right"))
    return [slice(*pair) for pair in zip(*ends, strict=True)]


def _mean(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) and value >= 0 else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
