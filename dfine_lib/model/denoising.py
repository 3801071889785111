"""Denoising queries: in training, noised ground-truth boxes are decoded beside the matching queries.

Source: DN-DETR (arXiv 2203.01305) and DINO (arXiv 2203.03605), contrastive denoising.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, inverse_sigmoid
from dfine_lib.model.outputs import DenoisingPlan

Targets = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class DenoisingQueries:
    """Noised boxes and classes to decode, M of them an image."""

    labels: Tensor  # int64 [B, M]; C for padding
    reference_logits: Tensor  # [B, M, 4], inverse sigmoid of the noised cxcywh box
    may_attend: Tensor  # bool [M + Q, M + Q], true where a row may see a column
    plan: DenoisingPlan


def make_denoising_queries(
    targets: Targets,
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
        targets: for each image `labels` int64 `[G]` and `boxes` cxcywh `[G, 4]` in 0..1.
        num_classes: C.
        num_queries: Q, matching queries that stand behind the denoising ones in the attention mask.
        num_denoising: positives wanted for each image, over all groups.
        label_noise_ratio: twice the share of labels that are drawn anew.
        box_noise_scale: 1 moves a corner by up to half a side (positives).

    Returns:
        The queries, or None where there is nothing to denoise.
    """
    counts = [len(target["labels"]) for target in targets]
    groups, largest = groups_of(counts, num_denoising), max(counts, default=0)
    if not groups:
        return None
    batch, device = len(targets), targets[0]["labels"].device
    total = 2 * largest * groups

    labels = torch.full((batch, largest), num_classes, dtype=torch.int64, device=device)
    boxes = torch.zeros(batch, largest, 4, device=device)
    real = torch.zeros(batch, largest, dtype=torch.bool, device=device)
    for i, (target, count) in enumerate(zip(targets, counts, strict=True)):
        labels[i, :count] = target["labels"]
        boxes[i, :count] = target["boxes"]
        real[i, :count] = True
    labels, real, boxes = labels.repeat(1, 2 * groups), real.repeat(1, 2 * groups), boxes.repeat(1, 2 * groups, 1)
    negative = torch.tensor([0.0, 1.0], device=device).repeat_interleave(largest).repeat(groups)  # [M]

    # The order of the draws is part of the published behaviour.
    flip = torch.rand(batch, total, device=device) < label_noise_ratio * 0.5
    drawn = torch.randint(0, num_classes, (batch, total), device=device)
    labels = torch.where(flip & real, drawn, labels)
    sign = torch.randint(0, 2, (batch, total, 4), device=device) * 2.0 - 1.0
    distance = torch.rand(batch, total, 4, device=device) + negative[:, None]
    half_side = boxes[..., 2:].repeat(1, 1, 2) * 0.5
    noised_xyxy = box_cxcywh_to_xyxy(boxes) + sign * distance * half_side * box_noise_scale
    noised = box_xyxy_to_cxcywh(noised_xyxy.clamp(0, 1)).abs()  # crossed corners give negative sides

    return DenoisingQueries(
        labels=labels,
        reference_logits=inverse_sigmoid(noised),
        may_attend=denoising_mask(largest, groups, num_queries, device),
        plan=_plan(counts, largest, groups, device),
    )


def groups_of(counts: Sequence[int], num_denoising: int) -> int:
    """How often the boxes of a batch are noised, from their numbers by image; 0 where there is nothing to denoise."""
    largest = max(counts, default=0)
    return max(1, num_denoising // largest) if num_denoising > 0 and largest else 0


def denoising_mask(largest: int, groups: int, num_queries: int, device: torch.device | str = "cpu") -> Tensor:
    """Who may look at whom: bool `[M + Q, M + Q]`, M = 2 * largest * groups, true where a row may see a column.

    Matching queries (the last Q) do not see denoising ones, which would give the answer away; denoising groups do
    not see each other but do see the matching queries.
    """
    group = torch.arange(2 * largest * groups + num_queries, device=device) // (2 * largest)
    group[2 * largest * groups :] = -1
    return (group[:, None] == group[None]) | (group[None] == -1)


def pad_queries(content: Tensor, reference: Tensor, may_attend: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries that nobody sees, put at the end, so that their number is `length` in every step.

    Compiled code is made for one number of queries, and that of denoising queries follows the boxes of a batch.

    Args:
        content: `[B, M + Q, D]`.
        reference: `[B, M + Q, 4]`.
        may_attend: bool `[M + Q, M + Q]`, true where a row may see a column.
        length: M + Q afterwards, at least as before.
    """
    more = length - content.shape[1]
    may_attend = F.pad(F.pad(may_attend, (0, more)), (0, 0, 0, more), value=True)  # what sees nothing would be NaN
    return F.pad(content, (0, 0, 0, more)), F.pad(reference, (0, 0, 0, more)), may_attend


def _plan(counts: list[int], largest: int, groups: int, device: torch.device) -> DenoisingPlan:
    count = torch.tensor(counts)
    image = torch.repeat_interleave(torch.arange(len(counts)), count)  # [sum of G]
    box = torch.arange(len(image))
    place = box - (count.cumsum(0) - count)[image]  # the box's place within its image
    group = torch.arange(groups)[:, None]
    query = (group * 2 * largest + place).flatten()
    return DenoisingPlan(
        num_groups=groups,
        num_queries=2 * largest * groups,
        image=image.repeat(groups).to(device),
        query=query.to(device),
        box=box.repeat(groups).to(device),
    )
