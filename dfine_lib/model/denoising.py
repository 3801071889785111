"""Denoising queries: in training, noised ground-truth boxes are decoded together with the matching queries.

Source: DN-DETR (arXiv 2203.01305) and DINO (arXiv 2203.03605), contrastive denoising.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, inverse_sigmoid
from dfine_lib.data.targets import Targets, TargetsLike
from dfine_lib.model.outputs import DenoisingPlan


@dataclass(frozen=True, eq=False)
class DenoisingQueries:
    """Noised ground-truth boxes and classes to decode, M of them an image."""

    labels: Tensor  # int64 [B, M]; C for padding
    reference_logits: Tensor  # [B, M, 4], inverse sigmoid of the noised cxcywh box
    attn_mask: Tensor  # bool [M + Q, M + Q], true where a row may attend to a column
    plan: DenoisingPlan


def make_denoising_queries(
    targets: TargetsLike,
    num_classes: int,
    num_queries: int,
    num_denoising: int,
    label_noise_ratio: float = 0.5,
    box_noise_scale: float = 1.0,
) -> DenoisingQueries | None:
    """Noise the ground truth.

    Each group holds G_max positive queries (corners moved by less than half a side) and G_max negative ones (moved
    by half a side to a whole one), G_max being the largest number of boxes in an image of the batch.

    Args:
        targets: `Targets`, or for each image `labels` int64 `[G]` and `boxes` cxcywh `[G, 4]` in 0..1.
        num_classes: C.
        num_queries: Q, matching queries, which follow the denoising queries in the attention mask.
        num_denoising: positive queries wanted for each image, over all groups.
        label_noise_ratio: twice the probability that a label is replaced by a random one.
        box_noise_scale: 1 moves a corner by up to half a side (positives).

    Returns:
        The queries, or None where there is nothing to denoise.
    """
    targets = Targets.of_images(targets)
    groups, largest = num_dn_groups(targets.counts, num_denoising), max(targets.counts, default=0)
    if not groups:
        return None
    batch, device = len(targets), targets.labels.device
    total = 2 * largest * groups

    slot = targets.image_index, targets.index_in_image  # of each box, in tensors padded to G_max boxes an image
    labels = torch.full((batch, largest), num_classes, dtype=torch.int64, device=device)
    labels[slot] = targets.labels
    boxes = torch.zeros(batch, largest, 4, device=device)
    boxes[slot] = targets.boxes_cxcywh
    labels, boxes = labels.repeat(1, 2 * groups), boxes.repeat(1, 2 * groups, 1)
    real = labels < num_classes
    negative = torch.arange(total, device=device) // largest % 2  # [M]; in each group positives first

    # The order of the draws is part of the published behaviour.
    flip = torch.rand(batch, total, device=device) < label_noise_ratio * 0.5
    drawn = torch.randint(0, num_classes, (batch, total), device=device)
    labels = torch.where(flip & real, drawn, labels)
    sign = torch.randint(0, 2, (batch, total, 4), device=device) * 2.0 - 1.0
    distance = torch.rand(batch, total, 4, device=device) + negative[:, None]
    half_side = boxes[..., 2:].repeat(1, 1, 2) * 0.5
    noised_xyxy = box_cxcywh_to_xyxy(boxes) + sign * distance * half_side * box_noise_scale
    noised = box_xyxy_to_cxcywh(noised_xyxy.clamp(0, 1)).abs()  # crossed corners give negative sides

    # Positive queries of each group: query g * 2 * G_max + j learns box j of its image.
    query = torch.arange(groups, device=device)[:, None] * 2 * largest + targets.index_in_image
    return DenoisingQueries(
        labels=labels,
        reference_logits=inverse_sigmoid(noised),
        attn_mask=denoising_mask(largest, groups, num_queries, device),
        plan=DenoisingPlan(
            num_groups=groups,
            num_queries=total,
            image=targets.image_index.repeat(groups),
            query=query.flatten(),
            box=torch.arange(len(targets.labels), device=device).repeat(groups),
        ),
    )


def num_dn_groups(counts: Sequence[int], num_denoising: int) -> int:
    """Number of denoising groups for images with so many boxes; 0 where there is nothing to denoise."""
    largest = max(counts, default=0)
    return max(1, num_denoising // largest) if num_denoising > 0 and largest else 0


def denoising_mask(largest: int, groups: int, num_queries: int, device: torch.device | str = "cpu") -> Tensor:
    """Attention mask: bool `[M + Q, M + Q]`, M = 2 * largest * groups, true where a row may attend to a column.

    Matching queries (the last Q) do not attend to denoising queries, which hold the ground truth. Denoising groups do
    not attend to each other, but they do attend to the matching queries.
    """
    group = torch.arange(2 * largest * groups + num_queries, device=device) // (2 * largest)
    group[2 * largest * groups :] = -1
    return (group[:, None] == group[None]) | (group[None] == -1)
