"""The refinement of one box: its initial box, the box after every layer, and the edge distributions behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, box_iou
from dfine_lib.evaluate.postprocess import Detections, postprocess
from dfine_lib.model.outputs import DFINEOutput


@dataclass(frozen=True, eq=False)
class Refinement:
    """One query through all decoder layers."""

    boxes_by_layer_xyxy: Tensor  # [L + 1, 4] pixels of the original image; the initial box b0 first
    corner_logits_by_layer: Tensor  # [L, 4, N + 1]; edges left, top, right, bottom
    bin_offsets: Tensor  # [N + 1], W as a fraction of the side of b0


def refinement_of(outputs: DFINEOutput, image: int, query: int, size_wh: Tensor | Sequence[float]) -> Refinement:
    """The boxes and edge distributions of one query after every layer.

    Args:
        outputs: of a model in eval mode, called with `keep_layers=True`.
        image: 0..B-1.
        query: 0..Q-1, as in `Detections.queries`.
        size_wh: width and height of the original image in pixels.

    Raises:
        ValueError: the layers were not kept.
    """
    decoder = outputs.decoder
    if decoder is None:
        raise ValueError("the layers were not kept; call the model with keep_layers=True")
    initial, refined = decoder.initial.boxes_cxcywh[image, query], decoder.boxes_cxcywh[:, image, query]
    boxes_xyxy = box_cxcywh_to_xyxy(torch.cat([initial[None], refined]).float())  # [L + 1, 4]
    scale = torch.as_tensor(size_wh).to(boxes_xyxy).repeat(2)  # w, h, w, h
    return Refinement(
        (boxes_xyxy * scale).cpu(),
        decoder.corner_logits[:, image, query].float().cpu(),
        outputs.bin_offsets.detach().float().cpu(),
    )


@dataclass(frozen=True, eq=False)
class FoundObject:
    """A ground-truth object, and the query that found it."""

    image: int  # index in the batch
    ground_truth: int  # index among the image's objects
    query: int
    label: int
    score: float
    ground_truth_xyxy: Tensor  # [4] pixels
    steps: Refinement


def found_objects(
    outputs: DFINEOutput,
    sizes_wh: Tensor,
    true_labels: Sequence[Tensor],
    true_boxes_xyxy: Sequence[Tensor],
    *,
    score: float = 0.4,
    least_iou: float = 0.5,
) -> list[FoundObject]:
    """Every ground-truth object that was found, by the highest-scoring detection of its class that overlaps it.

    Args:
        outputs: of a model in eval mode, called with `keep_layers=True`.
        sizes_wh: `[B, 2]`, width and height of the original images in pixels.
        true_labels: for each image int64 `[G]`.
        true_boxes_xyxy: for each image `[G, 4]` pixels.
        score: leave out detections below it.
        least_iou: IoU after the last layer from which a detection matches an object.

    Returns:
        In the order of images and objects.
    """
    found = []
    for i, detections in enumerate(postprocess(outputs, sizes_wh)):
        detections = detections.above(score)
        nearest = nearest_ground_truths(detections, true_labels[i], true_boxes_xyxy[i], least_iou).tolist()
        for number, label in enumerate(true_labels[i].tolist()):
            if number in nearest:
                k = nearest.index(number)  # scores fall: the first has the highest
                query = int(detections.queries[k])
                steps = refinement_of(outputs, i, query, sizes_wh[i])
                box = true_boxes_xyxy[i][number]
                found.append(FoundObject(i, number, query, label, float(detections.scores[k]), box, steps))
    return found


def nearest_ground_truths(
    detections: Detections, true_labels: Tensor, true_boxes_xyxy: Tensor, least_iou: float = 0.5
) -> Tensor:
    """The ground-truth box of the same class that each detection overlaps most.

    Args:
        detections: K of them.
        true_labels: int64 `[G]`.
        true_boxes_xyxy: `[G, 4]`, in the unit of the detections.
        least_iou: a detection of a smaller IoU matches none.

    Returns:
        int64 `[K]`, index of the box or -1. Several detections may have the same box.
    """
    if not len(true_labels) or not len(detections):
        return torch.full((len(detections),), -1)
    overlap = box_iou(detections.boxes_xyxy.double(), true_boxes_xyxy.to(detections.boxes_xyxy.device).double())
    overlap = overlap * (detections.labels[:, None] == true_labels.to(detections.labels.device))
    best, index = overlap.max(dim=1)
    return torch.where(best >= least_iou, index, -1)
