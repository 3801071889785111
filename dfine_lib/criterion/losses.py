"""The five loss terms as pure functions, for K predictions at once; each prediction keeps its own sum."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, paired_iou_giou
from dfine_lib.criterion.matcher import MatchedIndices


def gather_matched(values: Tensor, indices: MatchedIndices) -> Tensor:
    """Values `[K, B, Q, ...]` of the matched queries: `[K, P, ...]`."""
    return values[_layer_index(values), indices.image, indices.query]


def _layer_index(values: Tensor) -> Tensor:
    """0 to K - 1, as the first of the indices of matched queries: int64 `[K, 1]`."""
    return torch.arange(len(values), device=values.device)[:, None]


def varifocal_loss(
    logits: Tensor, indices: MatchedIndices, labels: Tensor, iou: Tensor, alpha: float = 0.75, gamma: float = 2.0
) -> Tensor:
    """VFL: the score of a class should be the IoU that the box of the query reaches.

    Binary cross-entropy of every query and class. A matched class has its IoU as weight and as soft target; every
    other class has the target 0 and the weight alpha * p^gamma, so easy negatives hardly count. Weights carry no
    gradient.

    Args:
        logits: `[K, B, Q, C]`.
        indices: matched indices of each prediction.
        labels: int64 `[M]`, classes of all boxes.
        iou: `[K, P]` of the matched queries, without gradient.

    Returns:
        Sum over images, queries and classes, `[K]`.

    Source: VarifocalNet (arXiv 2008.13367), eq. 2.
    """
    weight = alpha * logits.detach().sigmoid() ** gamma
    positive = (_layer_index(logits), indices.image, indices.query, labels[indices.box])
    weight[positive] = weight.new_zeros(())  # on a GPU, a Python number is copied there first, and the host waits
    # softplus(z) = -log(1 - p): of the negatives; softplus(z) - q z is the cross-entropy with the soft target q.
    negatives = (F.softplus(logits) * weight).flatten(1).sum(1)
    matched = logits[positive]
    positives = iou * (F.softplus(matched) - iou * matched)
    return negatives + positives.sum(1)


def box_losses(boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 and GIoU losses of matched boxes, and their IoU.

    Args:
        boxes_cxcywh: `[K, P, 4]`, 0..1.
        target_boxes_cxcywh: `[K or 1, P, 4]`.

    Returns:
        Sum of absolute cxcywh differences `[K]`, sum of 1 - GIoU `[K]`, IoU `[K, P]` without gradient.
    """
    boxes_xyxy = box_cxcywh_to_xyxy(boxes_cxcywh, clamp_size=True)
    iou, giou = paired_iou_giou(boxes_xyxy, box_cxcywh_to_xyxy(target_boxes_cxcywh))
    distance = (boxes_cxcywh - target_boxes_cxcywh).abs().sum((1, 2))
    return distance, (1 - giou).sum(1), iou.detach()


def fine_grained_localization_loss(corner_logits: Tensor, left: Tensor, weight_right: Tensor, iou: Tensor) -> Tensor:
    """FGL: cross-entropy of the two bins on either side of the target edge, with interpolation weights, times IoU.

    Args:
        corner_logits: of matched queries, `[K, P, 4, N + 1]`.
        left: int64 `[K or 1, P, 4]`, bin at or before the target edge.
        weight_right: `[K or 1, P, 4]`, interpolation weight of the next bin.
        iou: `[K, P]`, without gradient.

    Returns:
        Sum over matched queries and edges, `[K]`.

    Source: D-FINE, section 4.1, eq. 6.
    """
    log_p = corner_logits.log_softmax(-1)
    left = left.expand(log_p.shape[:-1])[..., None]
    nll_left = -log_p.gather(-1, left).squeeze(-1)
    nll_right = -log_p.gather(-1, left + 1).squeeze(-1)
    nll = nll_left * (1 - weight_right) + nll_right * weight_right
    return (nll * iou[..., None]).sum((1, 2))


def softened_divergence(corner_logits: Tensor, teacher_corner_logits: Tensor, temperature: float = 5.0) -> Tensor:
    """KL divergence of each layer's edge distributions from the last layer's, both softened by a temperature.

    Args:
        corner_logits: `[K, B, Q, 4, N + 1]`, students.
        teacher_corner_logits: `[B, Q, 4, N + 1]`, gets no gradient.
        temperature: T; the result is scaled by T^2 so that gradients keep their size.

    Returns:
        Sum over bins, mean over the four edges, `[K, B, Q]`.
    """
    teacher = (teacher_corner_logits.detach() / temperature).log_softmax(-1)
    student = (corner_logits / temperature).log_softmax(-1)
    divergence = (teacher.exp() * (teacher - student)).sum(-1)
    return divergence.mean(-1) * temperature**2


def decoupled_distillation_loss(
    divergence: Tensor, indices: MatchedIndices, iou: Tensor, teacher_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """DDF: the last layer's distributions teach all earlier layers; matched and unmatched queries separately.

    A matched query is weighted by the IoU of its box, an unmatched query by the teacher's highest class probability.

    Args:
        divergence: `[K, B, Q]`, from `softened_divergence`.
        indices: matched indices.
        iou: `[K, P]` of the matched queries, without gradient.
        teacher_logits: `[B, Q, C]`, location quality estimator (LQE) included.

    Returns:
        Sum over the matched queries and sum over the unmatched queries, `[K]` each.

    Source: D-FINE, section 4.2, eq. 8, with the weights of the released code.
    """
    matched = (_layer_index(divergence), indices.image, indices.query)
    of_unmatched = teacher_logits.detach().sigmoid().amax(-1).repeat(len(divergence), 1, 1)
    of_unmatched[matched] = of_unmatched.new_zeros(())
    of_matched = torch.zeros_like(of_unmatched)
    of_matched[matched] = iou
    return (divergence * of_matched).flatten(1).sum(1), (divergence * of_unmatched).flatten(1).sum(1)
