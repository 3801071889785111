"""Box formats, areas and overlaps: the only box maths of the library (torchvision.ops behind our names).

Every function takes boxes with four numbers in the last dimension and works in any unit, pixels or 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops


def box_cxcywh_to_xyxy(boxes_cxcywh: Tensor, clamp_size: bool = False) -> Tensor:
    """Centre and size `[..., 4]` to left, top, right, bottom `[..., 4]`.

    Args:
        clamp_size: count a negative width or height, which a distribution can decode to, as 0. Losses and matching
            do, as the published runs did: GIoU means nothing for a box turned inside out.
    """
    centre, size = boxes_cxcywh.split(2, dim=-1)
    if clamp_size:
        size = size.clamp(min=0)
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def box_xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Left, top, right, bottom `[..., 4]` to centre and size `[..., 4]`."""
    low, high = boxes_xyxy.split(2, dim=-1)
    return torch.cat([0.5 * (low + high), high - low], dim=-1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Width times height, `[...]`."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def box_iou(boxes_a_xyxy: Tensor, boxes_b_xyxy: Tensor) -> Tensor:
    """IoU of every pair: `[A, 4]` and `[G, 4]` to `[A, G]`, in 0..1."""
    return ops.box_iou(boxes_a_xyxy, boxes_b_xyxy)


def paired_iou_giou(boxes_a_xyxy: Tensor, boxes_b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes taken pair by pair, with broadcasting.

    Args:
        boxes_a_xyxy: `[..., 4]`, width and height not negative.
        boxes_b_xyxy: `[..., 4]`, broadcast against the first.

    Returns:
        IoU `[...]` in 0..1 and GIoU `[...]` in -1..1; not a number where both boxes have no area.

    Source: Rezatofighi et al., Generalized Intersection over Union (arXiv 1902.09630).
    """
    a_x1, a_y1, a_x2, a_y2 = boxes_a_xyxy.unbind(-1)
    b_x1, b_y1, b_x2, b_y2 = boxes_b_xyxy.unbind(-1)
    overlap_w = (torch.minimum(a_x2, b_x2) - torch.maximum(a_x1, b_x1)).clamp(min=0)
    overlap_h = (torch.minimum(a_y2, b_y2) - torch.maximum(a_y1, b_y1)).clamp(min=0)
    intersection = overlap_w * overlap_h
    union = (a_x2 - a_x1) * (a_y2 - a_y1) + (b_x2 - b_x1) * (b_y2 - b_y1) - intersection
    enclosing_w = torch.maximum(a_x2, b_x2) - torch.minimum(a_x1, b_x1)
    enclosing_h = torch.maximum(a_y2, b_y2) - torch.minimum(a_y1, b_y1)
    enclosing = enclosing_w * enclosing_h
    iou = intersection / union
    return iou, iou - (enclosing - union) / enclosing


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of `x` clipped to 0..1, finite at both ends; any shape."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
