"""Where queries looked: sampling locations and attention weights of each decoder layer, kept in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfine_lib.model.dfine import DFINE


@dataclass(frozen=True, eq=False)
class LayerSampling:
    """Where the queries of one decoder layer looked. P locations a head, level by level, fine to coarse."""

    locations: Tensor  # [B, Q, heads, P, 2], x and y, 0..1 inside the image
    weights: Tensor  # [B, Q, heads, P], summing to 1 for each head
    boxes_cxcywh: Tensor  # [B, Q, 4], 0..1; the reference boxes that the locations were measured from
    points_per_level: tuple[int, ...]  # they sum to P


@torch.no_grad()
def sampling_of(model: DFINE, images: Tensor) -> list[LayerSampling]:
    """Run a model and keep where every query looked, decoder layer by decoder layer.

    Args:
        model: in eval mode; in training mode denoising queries would be among the Q.
        images: `[B, 3, H, W]`, 0..1.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("call model.eval() first: in training mode the queries are not those of a detection")
    kept: list[LayerSampling] = []

    def keep(attention: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        query, boxes = arguments[:2]
        locations, weights = attention.sampling_locations(query, boxes), attention.sampling_weights(query)
        kept.append(LayerSampling(locations.cpu(), weights.cpu(), boxes.cpu(), attention.points_per_level))

    hooks = [layer.cross_attn.register_forward_pre_hook(keep) for layer in model.decoder.decoder.layers]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return kept
