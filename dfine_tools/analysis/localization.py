"""How well a model localises, whatever the classes: class-agnostic AP at high IoU, and errors of single edges.

AP mixes classification and localisation. What the distributions are for is the latter: so the score of a query here is
its highest class score, every object has the same class, and errors are measured edge by edge over matched objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, box_iou
from dfine_lib.evaluate.coco_ap import CocoEvaluator
from dfine_lib.evaluate.postprocess import Detections
from dfine_lib.model.dfine import DFINE
from dfine_tools.analysis.image_boxes import precision_by_recall

IOUS = {"ap75": 5, "ap90": 8, "ap95": 9}  # their place in COCO's thresholds 0.50, 0.55, …, 0.95
SIZES = {"small": (0.0, 24.0), "medium": (24.0, 48.0), "large": (48.0, np.inf)}  # mean side of the box, pixels
BLURS = {"sharp": (0.0, 0.7), "soft": (0.7, 2.0), "blurred": (2.0, np.inf)}  # standard deviation of an edge, pixels


@dataclass(frozen=True, eq=False)
class EdgeErrors:
    """Errors of the edges of M matched objects; edges left, top, right, bottom."""

    pixels: np.ndarray  # float64 [M, 4], prediction minus ground truth
    sides_px: np.ndarray  # float64 [M, 4], the side of the box along which each edge moves
    blur_px: np.ndarray  # float64 [M, 4], the edge's own blur; NaN where the file says none
    objects: int  # of the data set, matched or not

    def summary(self) -> dict[str, Any]:
        """Medians of the absolute error in pixels and in per cent of the side; by size and by blur in pixels."""
        error = np.abs(self.pixels)
        mean_side = np.broadcast_to(self.sides_px.mean(1, keepdims=True), error.shape)
        summary = {
            "matched": len(error) / max(self.objects, 1),
            "edge_px": _median(error),
            "edge_percent": _median(100 * error / self.sides_px),
        }
        for name, (low, high) in SIZES.items():
            summary[f"edge_px_{name}"] = _median(error[(mean_side >= low) & (mean_side < high)])
        for name, (low, high) in BLURS.items():
            summary[f"edge_px_{name}"] = _median(error[(self.blur_px >= low) & (self.blur_px < high)])
        return summary


def localization(
    model: DFINE, loader: Iterable[Any], annotation_file: str | Path, least_iou: float = 0.5
) -> list[dict[str, Any]]:
    """Measure every decoder layer of a model.

    Args:
        model: any; put in eval mode.
        loader: batches with `images` `[B, 3, H, W]`, `image_ids` (B) and `sizes_wh` `[B, 2]` in pixels, on the
            model's device.
        annotation_file: COCO JSON of these images. `edge_blur_px` of its annotations, where they have it, is the
            blur of the four edges; edges that `edge_outside` or `edge_occluded` (from one half on) marks are not
            measured, since they cannot be seen.
        least_iou: from which a query matches an object. Of those that do, the one with the highest score counts.

    Returns:
        For each decoder layer class-agnostic AP at IoU 0.75, 0.90 and 0.95 (`ap75`, `ap90`, `ap95`) and the summary of
        `EdgeErrors`.
    """
    content = json.loads(Path(annotation_file).read_text(encoding="utf-8"))
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            objects.setdefault(annotation["image_id"], []).append(annotation)
    one_class = [annotation | {"category_id": 1} for annotation in content["annotations"]]
    ground_truth = content | {"categories": [{"id": 1, "name": "object"}], "annotations": one_class}
    layers = model.config.num_decoder_layers
    evaluators = [CocoEvaluator(ground_truth) for _ in range(layers)]
    found: list[list[tuple[np.ndarray, list[dict[str, Any]]]]] = [[] for _ in range(layers)]
    model.eval()
    with torch.inference_mode():
        for batch in loader:
            outputs = model(batch.images, keep_layers=True)
            for k, layer in enumerate(outputs.layers):
                scores = layer.logits.float().sigmoid().amax(-1)  # [B, Q]
                boxes = box_cxcywh_to_xyxy(layer.boxes_cxcywh.float()) * batch.sizes_wh.repeat(1, 2)[:, None]
                for i, image_id in enumerate(batch.image_ids.tolist()):
                    evaluators[k].add([image_id], [_one_class(scores[i], boxes[i])])
                    own = objects.get(image_id, [])
                    found[k].append((_matched(scores[i], boxes[i], own, least_iou), own))
    rows = []
    for evaluator, of_layer in zip(evaluators, found, strict=True):
        precision = precision_by_recall(evaluator)  # [10, 101, 1]
        rows.append({name: float(precision[place].mean()) for name, place in IOUS.items()})
        rows[-1] |= _edge_errors(of_layer).summary()
    return rows


def _one_class(scores: Tensor, boxes_xyxy: Tensor) -> Detections:
    order = scores.argsort(descending=True)[:100]
    return Detections(torch.zeros_like(order), boxes_xyxy[order], scores[order], order)


def _matched(scores: Tensor, boxes_xyxy: Tensor, objects: Sequence[dict[str, Any]], least_iou: float) -> np.ndarray:
    """The box of each object's query, float64 `[G, 4]` xyxy pixels; NaN where none matches."""
    if not objects:
        return np.zeros((0, 4))
    true = torch.tensor([o["bbox"] for o in objects], dtype=torch.float64)
    true[:, 2:] += true[:, :2]
    boxes = boxes_xyxy.cpu().double()
    overlap = box_iou(true, boxes)  # [G, Q]
    own = torch.zeros_like(overlap, dtype=torch.bool)  # a query belongs to the object that it overlaps most
    own[overlap.argmax(0), torch.arange(len(boxes))] = True
    score = torch.where(own & (overlap >= least_iou), scores.cpu().double(), -1.0)
    best, query = score.max(1)
    return torch.where(best[:, None] >= 0, boxes[query], torch.nan).numpy()


def _edge_errors(found: Sequence[tuple[np.ndarray, Sequence[dict[str, Any]]]]) -> EdgeErrors:
    predicted = np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _ in found)])
    objects = [o for _, own in found for o in own]
    true = np.array([o["bbox"] for o in objects], np.float64).reshape(-1, 4)
    sides = np.tile(true[:, 2:], 2)
    true = np.concatenate([true[:, :2], true[:, :2] + true[:, 2:]], axis=1)
    nothing, unseen = [np.nan] * 4, [0] * 4
    blur = np.array([o.get("edge_blur_px", nothing) for o in objects], np.float64).reshape(-1, 4)
    hidden = np.array([o.get("edge_outside", unseen) for o in objects], np.float64).reshape(-1, 4) > 0
    hidden |= np.array([o.get("edge_occluded", unseen) for o in objects], np.float64).reshape(-1, 4) >= 0.5
    error = np.where(hidden, np.nan, predicted - true)
    kept = np.isfinite(predicted).all(1) & (sides > 0).all(1)
    return EdgeErrors(error[kept], sides[kept], blur[kept], len(objects))


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")
