"""Which query learns which box: Hungarian matching of every layer, and the union set over all layers (GO-LSD)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, paired_iou_giou
from dfine_lib.config import LossConfig
from dfine_lib.data.targets import Targets
from dfine_lib.device import copy_to


@dataclass(frozen=True, eq=False)
class MatchedIndices:
    """Matched queries and their boxes: int64 `[K, P]` for K predictions, or `[1, P]` for all predictions alike."""

    image: Tensor
    query: Tensor
    box: Tensor  # index among the boxes of all images of the batch

    def first(self, layers: int) -> MatchedIndices:
        """The indices of the first layers; indices for all predictions alike stay `[1, P]`."""
        return MatchedIndices(self.image[:layers], self.query[:layers], self.box[:layers])

    def to(self, device: torch.device) -> MatchedIndices:
        """The indices on a device, in one copy."""
        return MatchedIndices(*copy_to(device, torch.stack([self.image, self.query, self.box])))


def matching_cost(logits: Tensor, boxes_cxcywh: Tensor, targets: Targets, config: LossConfig) -> Tensor:
    """Matching cost matrix: each ground-truth box of the batch by each query of that box's image.

    Args:
        logits: `[K, B, Q, C]`, K predictions of every query (such as those of K decoder layers).
        boxes_cxcywh: `[K, B, Q, 4]`, 0..1.
        targets: M boxes.

    Returns:
        `[K, M, Q]`; 1 where a cost is NaN.

    Source: D-FINE's released code; the class cost is the positive less the negative cost of the focal loss.
    """
    image = targets.image_index
    # Only the column of each box's class: [K, B, C, Q] to [K, M, Q].
    p = logits.transpose(2, 3)[:, image, targets.labels].sigmoid()
    positive = config.cost_alpha * (1 - p) ** config.cost_gamma * -torch.log(p + 1e-8)
    negative = (1 - config.cost_alpha) * p**config.cost_gamma * -torch.log(1 - p + 1e-8)

    def of_each_box(boxes: Tensor) -> Tensor:
        """`[K, B, Q, 4]` to `[K, M, Q, 4]`; each coordinate lies contiguous in memory, which is faster."""
        return boxes.movedim(-1, 0).contiguous()[:, :, image].movedim(0, -1)

    target_boxes = targets.boxes_cxcywh[:, None]  # [M, 1, 4]
    distance = (of_each_box(boxes_cxcywh) - target_boxes).abs().sum(-1)
    boxes_xyxy = of_each_box(box_cxcywh_to_xyxy(boxes_cxcywh, clamp_size=True))
    _, giou = paired_iou_giou(boxes_xyxy, box_cxcywh_to_xyxy(target_boxes))
    cost = config.cost_class * (positive - negative) + config.cost_bbox * distance - config.cost_giou * giou
    return cost.nan_to_num(nan=1.0)


@torch.no_grad()
def match(logits: Tensor, boxes_cxcywh: Tensor, targets: Targets, config: LossConfig) -> MatchedIndices:
    """Hungarian matching of every prediction and image: one cost tensor, one transfer to the host.

    Args:
        logits: `[K, B, Q, C]`.
        boxes_cxcywh: `[K, B, Q, 4]`.
        targets: of the B images.

    Returns:
        Indices `[K, P]` on the host, P = sum of min(boxes of an image, Q).
    """
    cost = matching_cost(logits.float(), boxes_cxcywh.float(), targets, config).cpu().numpy()
    starts = np.cumsum((0, *targets.counts))[:-1]  # index of each image's first box
    query, box = [], []
    for layer in cost:
        rows, columns = zip(*map(linear_sum_assignment, np.split(layer, starts[1:])), strict=True)
        query.append(np.concatenate(columns))
        box.append(np.concatenate([own + start for own, start in zip(rows, starts, strict=True)]))
    image = np.repeat(np.arange(len(targets)), targets.counts)[np.array(box)]
    return MatchedIndices(*torch.from_numpy(np.array([image, query, box])))


def union_set(indices: MatchedIndices, num_queries: int) -> MatchedIndices:
    """Union set: one set of matched indices for all layers, the (query, box) pairs that most layers agree on (GO).

    Pairs are taken in descending order of the number of layers that matched them (ties: smaller query, then smaller
    box); a query keeps its first box. A box may keep several queries.

    Args:
        indices: `[K, P]`, on the host, as `match` returns them.
        num_queries: Q.

    Returns:
        Indices `[1, U]`, ordered by image, then query.

    Source: D-FINE, section 4.2. Differs from the authors' code: their sort leaves the order of ties to the device.
    """
    query = (indices.image * num_queries + indices.query).flatten().numpy()  # index among all queries
    box = indices.box.flatten().numpy()
    if not len(query):
        return indices.first(1)
    base = int(box.max()) + 1
    pair, votes = np.unique(query * base + box, return_counts=True)
    pair = pair[np.lexsort((pair, -votes))]
    query, first = np.unique(pair // base, return_index=True)
    union = np.stack([query // num_queries, query % num_queries, pair[first] % base])
    return MatchedIndices(*torch.from_numpy(union)[:, None])
