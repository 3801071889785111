"""The five loss terms as pure functions. K layers at once; every layer keeps its own sum."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, paired_iou_giou
from dfine_lib.criterion.matcher import Pairs


def at_pairs(values: Tensor, pairs: Pairs) -> Tensor:
    """Values `[K, B, Q, ...]` of the paired queries: `[K, P, ...]`."""
    layer = torch.arange(values.shape[0], device=values.device)[:, None]
    return values[layer, pairs.image, pairs.query]


def varifocal_loss(
    logits: Tensor, pairs: Pairs, labels: Tensor, iou: Tensor, alpha: float = 0.75, gamma: float = 2.0
) -> Tensor:
    """VFL: the score that a class should have is the overlap that its box reached.

    Binary cross-entropy everywhere. Weight and soft target of a matched class are its IoU; elsewhere the target is
    0 and the weight alpha * p^gamma, so easy negatives hardly count. Weights carry no gradient.

    Args:
        logits: `[K, B, Q, C]`.
        pairs: `[K, P]`.
        labels: int64 `[M]`, classes of all boxes.
        iou: `[K, P]` of the pairs, without gradient.

    Returns:
        Sum over images, queries and classes, `[K]`.

    Source: VarifocalNet (arXiv 2008.13367), eq. 2.
    """
    weight = alpha * logits.detach().sigmoid() ** gamma
    layer = torch.arange(logits.shape[0], device=logits.device)[:, None]
    place = (layer, pairs.image, pairs.query, labels[pairs.box])
    weight[place] = 0.0
    negative = (F.softplus(logits) * weight).flatten(1).sum(1)
    matched = logits[place]
    positive = iou * (F.softplus(matched) - iou * matched)
    return negative + positive.sum(1)


def box_losses(boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 and GIoU losses of paired boxes, and their IoU.

    Args:
        boxes_cxcywh, target_boxes_cxcywh: `[K, P, 4]`, 0..1.

    Returns:
        Sum of absolute cxcywh differences `[K]`, sum of 1 - GIoU `[K]`, IoU `[K, P]` without gradient.
    """
    boxes_xyxy = box_cxcywh_to_xyxy(boxes_cxcywh, clamp_size=True)
    iou, giou = paired_iou_giou(boxes_xyxy, box_cxcywh_to_xyxy(target_boxes_cxcywh))
    distance = (boxes_cxcywh - target_boxes_cxcywh).abs().sum((1, 2))
    return distance, (1 - giou).sum(1), iou.detach()


def fine_grained_localization_loss(corner_logits: Tensor, left: Tensor, weight_right: Tensor, iou: Tensor) -> Tensor:
    """FGL: cross-entropy of the two bins that the target edge lies between, weighted by nearness and by IoU.

    Args:
        corner_logits: of paired queries, `[K, P, 4, N + 1]`.
        left: int64 `[K or 1, P, 4]`, bin at or before the target edge.
        weight_right: `[K or 1, P, 4]`, the next bin's share.
        iou: `[K, P]`, without gradient.

    Returns:
        Sum over pairs and edges, `[K]`.

    Source: D-FINE, section 4.1, eq. 6.
    """
    log_p = corner_logits.log_softmax(-1)
    left = left.expand(log_p.shape[:-1])[..., None]
    nll_left = -log_p.gather(-1, left).squeeze(-1)
    nll_right = -log_p.gather(-1, left + 1).squeeze(-1)
    nll = nll_left * (1 - weight_right) + nll_right * weight_right
    return (nll * iou[..., None]).sum((1, 2))


def softened_divergence(corner_logits: Tensor, teacher_corner_logits: Tensor, temperature: float = 5.0) -> Tensor:
    """How far each layer's softened edge distributions are from the last layer's.

    Args:
        corner_logits: `[K, B, Q, 4, N + 1]`, students.
        teacher_corner_logits: `[B, Q, 4, N + 1]`, gets no gradient.
        temperature: T; the result is scaled by T^2 so that gradients keep their size.

    Returns:
        KL divergence summed over bins, mean over the four edges, `[K, B, Q]`.
    """
    teacher = (teacher_corner_logits.detach() / temperature).log_softmax(-1)
    student = (corner_logits / temperature).log_softmax(-1)
    divergence = (teacher.exp() * (teacher - student)).sum(-1)
    return divergence.mean(-1) * temperature**2


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each layer over the queries where the mask holds, 0 where it holds nowhere; `[K, B, Q]` to `[K]`."""
    count = mask.flatten(1).sum(1).clamp(min=1)
    return (values * mask).flatten(1).sum(1) / count


def decoupled_distillation_loss(
    divergence: Tensor, matched: Tensor, iou: Tensor, pairs: Pairs, teacher_logits: Tensor, shares: Tensor
) -> Tensor:
    """DDF: the last layer's distributions teach all others, matched and unmatched queries weighed apart.

    A matched query counts by the IoU of its box, an unmatched one by the teacher's best class probability.

    Args:
        divergence: `[K, B, Q]`, from `softened_divergence`.
        matched: bool `[K, B, Q]`.
        iou: `[K, P]` of the pairs, without gradient.
        pairs: `[K, P]`.
        teacher_logits: `[B, Q, C]`, quality head included.
        shares: `[2]`, weight of the matched and of the unmatched mean, summing to 1.

    Returns:
        `[K]`.

    Source: D-FINE, section 4.2, eq. 8, with the weights of the released code.
    """
    weight = teacher_logits.detach().sigmoid().amax(-1).expand(divergence.shape).clone()
    layer = torch.arange(divergence.shape[0], device=divergence.device)[:, None]
    weight[layer, pairs.image, pairs.query] = iou
    weighted = divergence * weight
    return shares[0] * mean_where(weighted, matched) + shares[1] * mean_where(weighted, ~matched)
