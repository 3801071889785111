"""How one box came about: its initial guess, what every layer made of it, and from which edge distributions."""

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
    """What the layers made of one query.

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
    """A ground truth object, and the query that found it."""

    image: int  # in the batch
    truth: int  # among the image's objects
    query: int
    label: int
    score: float
    truth_xyxy: Tensor  # [4] pixels
    steps: Refinement


def found_objects(
    outputs: DFINEOutput,
    sizes_wh: Tensor,
    truth_labels: Sequence[Tensor],
    truth_boxes_xyxy: Sequence[Tensor],
    *,
    score: float = 0.4,
    least_iou: float = 0.5,
) -> list[FoundObject]:
    """Every ground truth object that was found, by the surest detection of its class that overlaps it.

    Args:
        outputs: of a model in eval mode, called with `keep_layers=True`.
        sizes_wh: `[B, 2]`, width and height of the original images in pixels.
        truth_labels: for each image int64 `[G]`.
        truth_boxes_xyxy: for each image `[G, 4]` pixels.
        score: leave out detections below it.
        least_iou: overlap, after the last layer, that makes a detection an object's.

    Returns:
        In the order of images and objects.
    """
    found = []
    for i, detections in enumerate(postprocess(outputs, sizes_wh)):
        detections = detections.above(score)
        nearest = truths_of(detections, truth_labels[i], truth_boxes_xyxy[i], least_iou).tolist()
        for truth, label in enumerate(truth_labels[i].tolist()):
            if truth in nearest:
                k = nearest.index(truth)  # scores fall: the first is the surest
                query = int(detections.queries[k])
                steps = refinement_of(outputs, i, query, sizes_wh[i])
                box = truth_boxes_xyxy[i][truth]
                found.append(FoundObject(i, truth, query, label, float(detections.scores[k]), box, steps))
    return found


def truths_of(detections: Detections, truth_labels: Tensor, truth_boxes_xyxy: Tensor, least_iou: float = 0.5) -> Tensor:
    """The ground truth box that each detection is nearest to: same class, most overlap.

    Args:
        detections: K of them.
        truth_labels: int64 `[G]`.
        truth_boxes_xyxy: `[G, 4]`, in the unit of the detections.
        least_iou: below this it is nobody's.

    Returns:
        int64 `[K]`, index of the box or -1. Several detections may share one.
    """
    if not len(truth_labels) or not len(detections):
        return torch.full((len(detections),), -1)
    overlap = box_iou(detections.boxes_xyxy.double(), truth_boxes_xyxy.to(detections.boxes_xyxy.device).double())
    overlap = overlap * (detections.labels[:, None] == truth_labels.to(detections.labels.device))
    best, index = overlap.max(dim=1)
    return torch.where(best >= least_iou, index, -1)
