"""Outputs of the model: small frozen dataclasses, so that a misspelt name fails where it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """Output of one decoder layer, or of the encoder."""

    logits: Tensor  # [B, Q, C]
    boxes_cxcywh: Tensor  # [B, Q, 4], 0..1
    # [B, Q, 4, N + 1]; none for the initial boxes, the encoder and direct regression
    corner_logits: Tensor | None = None


@dataclass(frozen=True, eq=False)
class DecoderOutput:
    """Outputs of all decoder layers for one set of queries."""

    logits: Tensor  # [L, B, Q, C]
    boxes_cxcywh: Tensor  # [L, B, Q, 4], 0..1
    # [L, B, Q, 4, N + 1]; edges left, top, right, bottom. None with direct regression.
    corner_logits: Tensor | None
    # Initial boxes b0, predicted after the first layer; all layers refine them, detached. None with direct regression
    # and where only the last layer's output was kept.
    initial: LayerOutput | None

    @classmethod
    def of_layers(cls, layers: Sequence[LayerOutput], initial: LayerOutput | None) -> DecoderOutput:
        """The outputs of single layers, stacked."""
        logits, boxes, corners = zip(*((x.logits, x.boxes_cxcywh, x.corner_logits) for x in layers), strict=True)
        return cls(
            torch.stack(logits), torch.stack(boxes), None if corners[0] is None else torch.stack(corners), initial
        )

    @property
    def layers(self) -> tuple[LayerOutput, ...]:
        """The same, layer by layer."""
        corner_logits = [None] * len(self.logits) if self.corner_logits is None else self.corner_logits
        return tuple(map(LayerOutput, self.logits, self.boxes_cxcywh, corner_logits))

    def split(self, num_queries: int) -> tuple[DecoderOutput, DecoderOutput]:
        """Outputs of the first so many queries, and of the others."""
        parts = []
        for own in (slice(num_queries), slice(num_queries, None)):
            initial = self.initial and LayerOutput(self.initial.logits[:, own], self.initial.boxes_cxcywh[:, own])
            corner_logits = None if self.corner_logits is None else self.corner_logits[:, :, own]
            parts.append(DecoderOutput(self.logits[:, :, own], self.boxes_cxcywh[:, :, own], corner_logits, initial))
        return parts[0], parts[1]


@dataclass(frozen=True, eq=False)
class DenoisingPlan:
    """Which denoising query learns which box. P pairs: every positive query of every image and group."""

    num_groups: int
    num_queries: int  # 2 * G_max * groups
    image: Tensor  # int64 [P]
    query: Tensor  # int64 [P], among the denoising queries
    box: Tensor  # int64 [P], among the boxes of all images one after the other


@dataclass(frozen=True, eq=False)
class DFINEOutput:
    """Output of the whole model."""

    pred_logits: Tensor  # [B, Q, C], last layer
    pred_boxes: Tensor  # [B, Q, 4] cxcywh, 0..1, last layer
    decoder: DecoderOutput | None  # all layers; in eval mode only on request
    encoder: LayerOutput | None  # the encoder's prediction at the selected tokens; likewise
    bin_offsets: Tensor | None  # W, [N + 1], fractions of the side of the initial box; None with direct regression
    denoising: DecoderOutput | None = None  # training only
    denoising_plan: DenoisingPlan | None = None

    @property
    def layers(self) -> tuple[LayerOutput, ...]:
        """The decoder's layers; empty where they were not kept."""
        return () if self.decoder is None else self.decoder.layers
