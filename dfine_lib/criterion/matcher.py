"""Which query learns which box: Hungarian matching for every layer, and the union set over all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, paired_iou_giou
from dfine_lib.config import LossConfig


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a query and a box. Each field is int64 `[K, P]`: K layers, P pairs a layer."""

    image: Tensor
    query: Tensor
    box: Tensor  # place among the boxes of all images, one after the other

    def repeated(self, layers: int) -> Pairs:
        """The same pairs for that many layers; for K = 1 only."""
        return Pairs(*(x.expand(layers, -1) for x in (self.image, self.query, self.box)))

    def first(self, layers: int) -> Pairs:
        """The pairs of the first layers."""
        return Pairs(self.image[:layers], self.query[:layers], self.box[:layers])


def matching_cost(
    logits: Tensor, boxes_cxcywh: Tensor, labels: Tensor, target_boxes: Tensor, image: Tensor, config: LossConfig
) -> Tensor:
    """What it would cost each query of a box's image to be that box's.

    Args:
        logits: `[K, B, Q, C]`, K layers.
        boxes_cxcywh: `[K, B, Q, 4]`, 0..1.
        labels: int64 `[M]`, boxes of all images one after the other.
        target_boxes: cxcywh `[M, 4]`.
        image: int64 `[M]`, the image that each box is in.

    Returns:
        `[M, K, Q]`; 1 where a cost is not a number.

    Source: D-FINE's released code; the class cost is the focal loss's difference between yes and no.
    """
    p = logits[:, image, :, labels].sigmoid()  # [M, K, Q]: only the columns that some box asks for
    yes = config.cost_alpha * (1 - p) ** config.cost_gamma * -torch.log(p + 1e-8)
    no = (1 - config.cost_alpha) * p**config.cost_gamma * -torch.log(1 - p + 1e-8)

    def of_images(boxes: Tensor) -> Tensor:
        """`[K, B, Q, 4]` to `[M, K, Q, 4]`; numbers of one coordinate lie side by side, which is faster."""
        return boxes.permute(3, 1, 0, 2).contiguous()[:, image].movedim(0, -1)

    targets = target_boxes[:, None, None]
    distance = (of_images(boxes_cxcywh) - targets).abs().sum(-1)
    boxes_xyxy = of_images(box_cxcywh_to_xyxy(boxes_cxcywh, clamp_size=True))
    _, giou = paired_iou_giou(boxes_xyxy, box_cxcywh_to_xyxy(targets))
    cost = config.cost_class * (yes - no) + config.cost_bbox * distance - config.cost_giou * giou
    return cost.nan_to_num(nan=1.0)


@torch.no_grad()
def match(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    counts: list[int],
    config: LossConfig,
) -> Pairs:
    """Hungarian matching of every layer and image: one cost tensor, one transfer to the host.

    Args:
        logits: `[K, B, Q, C]`.
        boxes_cxcywh: `[K, B, Q, 4]`.
        labels, target_boxes: int64 `[M]` and cxcywh `[M, 4]`, boxes of all images one after the other.
        counts: boxes of each image; they sum to M.

    Returns:
        Pairs `[K, P]`, P = sum of min(boxes of an image, Q).
    """
    device = logits.device
    image = torch.repeat_interleave(torch.tensor(counts, device=device))
    cost = matching_cost(logits.float(), boxes_cxcywh.float(), labels, target_boxes, image, config).cpu().numpy()
    layers = range(cost.shape[1])
    query: list[list[np.ndarray]] = [[] for _ in layers]
    box: list[list[np.ndarray]] = [[] for _ in layers]
    start = 0
    for count in counts:
        if count:
            for k in layers:
                rows, columns = linear_sum_assignment(cost[start : start + count, k])
                query[k].append(columns)
                box[k].append(rows + start)
        start += count

    def stacked(parts: list[list[np.ndarray]]) -> Tensor:
        arrays = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in parts]
        return torch.from_numpy(np.stack(arrays)).to(device)

    boxes = stacked(box)
    return Pairs(image=image[boxes], query=stacked(query), box=boxes)


def union_set(pairs: Pairs, num_queries: int) -> Pairs:
    """One set of pairs that all layers share (GO): the pairs that most layers agree on.

    Pairs are walked by falling number of layers that chose them (ties: smaller query, then smaller box); a query
    keeps its first box. A box may keep several queries.

    Args:
        pairs: `[K, P]`.
        num_queries: Q.

    Returns:
        Pairs `[1, U]`, ordered by image, then query.

    Source: D-FINE, section 4.2. Differs from the authors' code: their sort leaves the order of ties to the device.
    """
    query = (pairs.image * num_queries + pairs.query).flatten().cpu().numpy()
    box = pairs.box.flatten().cpu().numpy()
    if not len(query):
        return pairs.first(1)
    base = int(box.max()) + 1
    key, count = np.unique(query * base + box, return_counts=True)
    falling = np.lexsort((key, -count))
    kept_query, first = np.unique(key[falling] // base, return_index=True)
    kept_box = key[falling][first] % base
    as_tensor = [torch.from_numpy(x)[None] for x in (kept_query // num_queries, kept_query % num_queries, kept_box)]
    return Pairs(*(x.to(pairs.query.device) for x in as_tensor))
