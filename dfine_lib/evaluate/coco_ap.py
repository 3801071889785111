"""The 12 COCO metrics of a model's detections, computed by faster-coco-eval or pycocotools."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.coco_checks import raise_first
from dfine_lib.data.coco_columns import CocoColumns, indices_in, read_json
from dfine_lib.distributed import ALONE, Ranks
from dfine_lib.errors import DataError, DfineError
from dfine_lib.evaluate.postprocess import Detections, postprocess
from dfine_lib.files import json_safe

logger = logging.getLogger(__name__)
ENGINES = ("faster-coco-eval", "pycocotools")
_NEEDED = (  # checks that a bare COCO file has to pass
    *("image_id_invalid", "category_id_invalid", "annotation_orphan", "category_unknown"),
    *("box_unreadable", "area_invalid"),
)
_AT_ONCE = 200_000  # detections handed to the engine at a time: it keeps a dict of about 1 kB for each


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's average precision (AP) and average recall (AR), 0..1; NaN where there is nothing to measure.

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
        """JSON-safe: floats, None where there is nothing to measure."""
        return json_safe(asdict(self))


class CocoEvaluator:
    """Collects detections image by image, then scores them against a COCO file.

    The ground truth is the untouched file: boxes are not clamped. A file without `area` or `iscrowd` gets width *
    height and 0. Annotations are renumbered from 1: the engines take an object with id 0 for unmatched.

    Objects marked `ignore` or `difficult` are ignored, as PASCAL VOC ignores difficult ones: an ignored object is no
    false negative, and detections that match it, however many, are no false positives. The engines read `iscrowd`
    alone; the number of ignored objects is logged.
    """

    def __init__(
        self,
        annotation_file: CocoIndex | str | os.PathLike[str] | dict[str, Any],
        category_ids: Sequence[int] | None = None,
        image_ids: Iterable[int] | None = None,
        engine: str = ENGINES[0],
    ) -> None:
        """
        Args:
            annotation_file: a validation index, which holds its ground truth; or COCO instances JSON, or its content.
            category_ids: the file's category id of each label 0..C-1; default: the file's own, rising. A label
                whose id the file lacks is not scored.
            image_ids: score these images only; default: all of the file, with detections or without.
            engine: `faster-coco-eval`, or `pycocotools`, the original, some five times slower.

        Raises:
            DataError: the file lacks `images` or `annotations`, or is not JSON, or lacks one of `image_ids`.
            DfineError: unknown engine.
        """
        indexed = isinstance(annotation_file, CocoIndex)
        columns = annotation_file.columns if indexed else _columns_of(annotation_file)
        if columns is None:
            raise DataError(f"{annotation_file.annotation_file}: a training index has no ground truth to evaluate on")
        named = zip(columns.category_keys, columns.categories, strict=True)
        self._names = {key: str(record.get("name", key)) for key, record in named}
        self._class_ids = sorted(self._names)
        self.class_names = [self._names[i] for i in self._class_ids]  # of `ground_truth`'s classes
        self.category_ids = np.asarray(self._class_ids if category_ids is None else category_ids, dtype=np.int64)
        self._class_of_label = indices_in(self._class_ids, self.category_ids.tolist())
        self.image_ids = sorted(set(columns.image_keys))
        self._index = {image_id: i for i, image_id in enumerate(self.image_ids)}  # the engine's id of an image
        scored = self.image_ids if image_ids is None else sorted({int(i) for i in image_ids})
        if unknown := [i for i in scored if i not in self._index]:
            raise DataError(f"{columns.annotation_file}: no image with id {unknown[:5]}")
        self.scored = [self._index[i] for i in scored]
        self._engine = _engine(engine)
        self.ground_truth = self._coco(self._annotations(columns))
        self.reset()

    def _annotations(self, known: CocoColumns) -> list[dict[str, Any]]:
        """The objects as the engine takes them: images and classes numbered from 0, annotations from 1."""
        marked = (known.ignore | known.difficult) & ~known.iscrowd
        if count := int(marked.sum()):
            words = "%s: %d objects marked ignore or difficult are ignored in the evaluation"
            logger.info(words, known.annotation_file, count)
        ignored = known.iscrowd | marked
        if ignored.all():
            logger.warning("%s: no boxes that count, so there is no AP to measure on it", known.annotation_file)
        images = _renumbered(known.image_of, known.image_keys, self.image_ids)
        classes = _renumbered(known.category_of, known.class_keys, self._class_ids)
        rows = np.flatnonzero((images >= 0) & (classes >= 0))
        areas = np.where(np.isnan(known.areas), known.boxes_xywh[:, 2:].prod(1), known.areas)
        columns = {"image_id": images, "category_id": classes, "bbox": known.boxes_xywh, "area": areas}
        columns |= {"iscrowd": ignored.astype(int), "marked": marked}
        records = zip(*(column[rows].tolist() for column in columns.values()), strict=True)
        return [{"id": i, **dict(zip(columns, record, strict=True))} for i, record in enumerate(records, start=1)]

    def _coco(self, annotations: list[dict[str, Any]]) -> Any:
        coco = self._engine[0]()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(self.image_ids))],
            "categories": [{"id": c} for c in range(len(self._class_ids))],
            "annotations": annotations,
        }
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            coco.createIndex()
        return coco

    def reset(self) -> None:
        """Forget all detections."""
        self._seen: set[int] = set()  # images, by index
        self._parts: list[np.ndarray] = []  # rows as `loadRes` takes them: image, x, y, w, h, score, class

    def add(self, image_ids: Iterable[int] | torch.Tensor, detections: Sequence[Detections]) -> None:
        """Take in the detections of some images. An image that was seen before is left as it is: samplers pad.

        Raises:
            ValueError: an image id that the file does not have, a label outside 0..C-1, or lists of unequal length.
        """
        ids = [int(i) for i in image_ids]
        if len(ids) != len(detections):
            raise ValueError(f"{len(ids)} image ids for {len(detections)} lists of detections")
        for image_id, of_image in zip(ids, detections, strict=True):
            if image_id not in self._index:
                raise ValueError(f"image id {image_id} is not in the ground truth")
            if self._index[image_id] in self._seen:
                continue
            columns = (of_image.labels, of_image.scores, of_image.boxes_xyxy)
            labels, scores, boxes = (torch.as_tensor(column).cpu().numpy() for column in columns)
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.category_ids):
                classes = len(self.category_ids)
                raise ValueError(f"image id {image_id}: labels {labels.min()} to {labels.max()} for {classes} classes")
            self._seen.add(self._index[image_id])
            rows = np.empty((len(labels), 7))  # float64: a width is the difference of two float32 corners
            rows[:, 0], rows[:, 5], rows[:, 6] = self._index[image_id], scores, self._class_of_label[labels]
            rows[:, 1:5] = boxes.reshape(-1, 4)
            rows[:, 3:5] -= rows[:, 1:3]
            self._parts.append(rows[rows[:, 6] >= 0])

    def gather(self, ranks: Ranks) -> None:
        """Exchange detections between all ranks, so that each holds all. Collective: every rank calls it."""
        of_ranks = ranks.gather((sorted(self._seen), self.detections()))
        self.reset()
        for seen, rows in of_ranks:  # the last batch of a rank may repeat images of another
            self._parts.append(rows[np.isin(rows[:, 0], [i for i in seen if i not in self._seen])])
            self._seen.update(seen)

    def metrics(self) -> CocoMetrics:
        """Score what was added. Objects of images without detections are false negatives."""
        precision, recall = self.tables()
        of_class = {i: _mean(precision[:, :, c, 0, 2]) for c, i in enumerate(self._class_ids)}
        return CocoMetrics(
            *(_mean(precision[iou, :, :, 0, 2]) for iou in (slice(None), 0, 5)),
            *(_mean(precision[:, :, :, area, 2]) for area in (1, 2, 3)),
            *(_mean(recall[:, :, 0, most]) for most in (0, 1, 2)),
            *(_mean(recall[:, :, area, 2]) for area in (1, 2, 3)),
            per_class={name: of_class[i] for i, name in self._names.items()},
        )

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """COCO's precision `[10, 101, C, 4, 3]` and recall `[10, C, 4, 3]`; -1 where there is nothing to find.

        The last two axes are the areas all, small, medium and large, and at most 1, 10 and 100 detections. Classes are
        scored apart, so some go to the engine at a time, which bounds what it holds.
        """
        precision = -np.ones((10, 101, len(self._class_ids), 4, 3))
        recall = -np.ones((10, len(self._class_ids), 4, 3))
        rows, (_, evaluation) = self.detections(), self._engine
        part = np.cumsum(np.bincount(rows[:, 6].astype(np.int64), minlength=len(self._class_ids))) // _AT_ONCE
        for number in np.unique(part) if self.scored else ():
            classes = np.flatnonzero(part == number)
            chosen = rows[np.isin(rows[:, 6], classes)]
            with contextlib.redirect_stdout(io.StringIO()):
                found = self.ground_truth.loadRes(chosen) if len(chosen) else self._coco([])
                run = evaluation(self.ground_truth, found, "bbox")
                run.params.imgIds, run.params.catIds = self.scored, classes.tolist()
                run.evaluate()
                run.accumulate()
            precision[:, :, classes], recall[:, classes] = run.eval["precision"], run.eval["recall"]
        return precision, recall

    def detections(self) -> np.ndarray:
        """All finite detections `[K, 7]`: index in `image_ids`, x, y, width, height (pixels), score, class."""
        rows = np.concatenate([np.empty((0, 7)), *self._parts])
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            logger.warning("left out %d detections with a score or a box that is not finite", (~finite).sum())
        self._parts = [rows[finite]]
        return self._parts[0]


def evaluate_model(
    model: nn.Module,
    loader: Iterable[Any],
    evaluator: CocoEvaluator | CocoIndex | str | os.PathLike[str] | dict[str, Any],
    device: torch.device | str,
    top_k: int = 300,
    ranks: Ranks = ALONE,
) -> CocoMetrics:
    """Run a model over a validation set and score it.

    Args:
        model: maps images to an output with `pred_logits` and `pred_boxes`; left in the mode it was found in.
        loader: batches with `images` `[B, 3, H, W]`, `image_ids` (B) and `sizes_wh` `[B, 2]` in pixels.
        evaluator: filled anew; or the COCO file to make one from, labels then meaning `loader.index.category_ids`.
        device: where the model is.
        top_k: most detections per image.
        ranks: whose detections are gathered; each of them must call, and gets the same metrics.

    Returns:
        The 12 COCO metrics and the AP of each class.

    Raises:
        ValueError: the model has another number of classes than the evaluator.
    """
    if not isinstance(evaluator, CocoEvaluator):
        evaluator = CocoEvaluator(evaluator, getattr(getattr(loader, "index", None), "category_ids", None))
    evaluator.reset()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            quiet = not ranks.is_zero
            for batch in tqdm(loader, "evaluate", unit="batch", leave=False, dynamic_ncols=True, disable=quiet):
                outputs = model(batch.images.to(device, non_blocking=True))
                if (rows := outputs.pred_logits.shape[-1]) != len(evaluator.category_ids):
                    raise ValueError(f"a model of {rows} classes, for an evaluation of {len(evaluator.category_ids)}")
                evaluator.add(batch.image_ids, postprocess(outputs, batch.sizes_wh, top_k))
    finally:
        model.train(was_training)
    evaluator.gather(ranks)
    return evaluator.metrics()


def _columns_of(source: str | os.PathLike[str] | dict[str, Any]) -> CocoColumns:
    """The columns of a COCO file, or of its content; images need no size and no file name for an evaluation."""
    file = Path("ground truth" if isinstance(source, dict) else source)
    content = source if isinstance(source, dict) else read_json(file)
    for key in ("images", "annotations"):
        if key not in content:
            raise DataError(f"{file}: no {key!r} in this COCO file")
    for annotation in content["annotations"]:
        for key in ("image_id", "category_id", "bbox"):
            if key not in annotation:
                raise DataError(f"{file}: annotation id {annotation.get('id', '(none)')} has no {key!r}")
    if not content.get("categories"):
        ids = sorted({annotation["category_id"] for annotation in content["annotations"]})
        content = content | {"categories": [{"id": i} for i in ids]}
    columns = CocoColumns(file, content)
    raise_first(columns, training=False, names=_NEEDED)
    return columns


def _renumbered(rows: np.ndarray, keys: Sequence[Any], known: Sequence[int]) -> np.ndarray:
    """The index in `known` of what `rows` are indices of in `keys`; -1 for -1 and for what `known` lacks."""
    return np.append(indices_in(known, keys), -1)[rows]


def _engine(name: str) -> tuple[type, type]:
    """The engine's `COCO`, and its `COCOeval` with the ignore flags that both libraries overwrite by `iscrowd`."""
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    elif name == "faster-coco-eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval

        logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it logs what pycocotools prints
    else:
        raise DfineError(f"engine should be {' or '.join(ENGINES)}, got {name!r}")

    class Evaluation(COCOeval):
        def computeIoU(self, imgId: int, catId: int) -> Any:
            """An object marked to be ignored matches as a crowd region does, but by its plain IoU."""
            marked = [a for a in self.cocoGt.imgToAnns[imgId] if a["marked"] and a["category_id"] == catId]
            for a in marked:
                a["iscrowd"] = 0
            ious = super().computeIoU(imgId, catId)
            for a in marked:
                a["iscrowd"] = 1
            return ious

    return COCO, Evaluation


def _mean(table: np.ndarray) -> float:
    measured = table[table > -1]
    return float(measured.mean()) if measured.size else math.nan
