"""From a model's outputs to detections in pixels of the original image."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy


class HasPredictions(Protocol):
    """What post-processing reads of a model's output."""

    pred_logits: Tensor  # [B, Q, C]
    pred_boxes: Tensor  # [B, Q, 4] cxcywh, 0..1


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image, by falling score."""

    labels: Tensor  # int64 [K], 0..C-1
    boxes_xyxy: Tensor  # float32 [K, 4], pixels of the original image
    scores: Tensor  # float32 [K], 0..1
    queries: Tensor | None = None  # int64 [K], the query each box came from; one query may give several labels

    def __len__(self) -> int:
        return len(self.labels)

    def above(self, score: float) -> Detections:
        """The detections with a score of at least `score`."""
        return self._each(lambda t: t[self.scores >= score])

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on another device."""
        return self._each(lambda t: t.to(device))

    def _each(self, change) -> Detections:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Detections(**{k: None if v is None else change(v) for k, v in values.items()})


@torch.no_grad()
def postprocess(outputs: HasPredictions, sizes_wh: Tensor, top_k: int = 300) -> list[Detections]:
    """The best `top_k` (query, class) pairs of every image, as boxes in pixels. No NMS: one query, one object.

    Args:
        outputs: holds `pred_logits` `[B, Q, C]` and `pred_boxes` `[B, Q, 4]` (cxcywh, 0..1).
        sizes_wh: `[B, 2]`, width and height of each original image in pixels.
        top_k: most detections per image; capped at Q * C.

    Returns:
        B `Detections` with K = min(top_k, Q * C) entries each, on the CPU.

    Raises:
        ValueError: `top_k` below 1, or `sizes_wh` not `[B, 2]`.

    Source: the post-processor of the released D-FINE code.
    """
    logits, boxes = outputs.pred_logits.float(), outputs.pred_boxes.float()
    batch, num_queries, num_classes = logits.shape
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if sizes_wh.shape != (batch, 2):
        raise ValueError(f"sizes_wh must be [{batch}, 2] (width, height), got {list(sizes_wh.shape)}")
    scores, index = logits.sigmoid().flatten(1).topk(min(top_k, num_queries * num_classes))  # [B, K]
    labels, queries = index % num_classes, index // num_classes
    scale = sizes_wh.to(boxes).repeat(1, 2)  # [B, 4]: w, h, w, h
    boxes_px = box_cxcywh_to_xyxy(boxes) * scale[:, None]
    boxes_px = boxes_px.gather(1, queries[..., None].expand(-1, -1, 4))  # [B, K, 4]
    # Four transfers a batch: of each image by itself they would be four times B, and a GPU would wait for each.
    of_batch = (found.cpu() for found in (labels, boxes_px, scores, queries))
    return [Detections(*image) for image in zip(*of_batch, strict=True)]
