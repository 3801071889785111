"""Deformable cross-attention: each query looks at a few places around its box instead of at every token."""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.model.autograd import memory_format

OFFSET_SCALE = 0.5  # share of the reference box that an offset of `points` reaches


def split_levels(memory: Tensor, shapes: list[tuple[int, int]], num_heads: int) -> list[Tensor]:
    """Tokens of all levels, `[B, S, D]`, as one map a level, `[B * heads, D / heads, h, w]`.

    All decoder layers sample the same maps, so this runs once a forward pass.
    """
    batch, _, width = memory.shape
    levels = memory.split([h * w for h, w in shapes], dim=1)
    return [
        level.transpose(1, 2).reshape(batch * num_heads, width // num_heads, h, w)
        for level, (h, w) in zip(levels, shapes, strict=True)
    ]


def split_images(maps: list[Tensor], num_heads: int) -> list[tuple[Tensor, ...]]:
    """The same numbers image by image, `[heads, D / heads, h, w]` each, as views of maps `[B, D, h, w]`.

    For training on CPUs, where changing the layout of a map costs more than a few calls.
    """
    levels = []
    for x in maps:
        if memory_format(x) == torch.channels_last:  # so gradients come back in the map's layout
            images = [image.permute(2, 0, 1) for image in x.permute(0, 2, 3, 1).unbind()]
        else:
            images = x.unbind()
        levels.append(tuple(image.unflatten(0, (num_heads, -1)) for image in images))
    return levels


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention without value and output projections.

    Source: Deformable DETR (arXiv 2010.04159), with D-FINE's own number of points for each level.
    """

    def __init__(self, dim: int, num_heads: int, points_per_level: tuple[int, ...]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.points_per_level = points_per_level
        total = sum(points_per_level)
        self.sampling_offsets = nn.Linear(dim, num_heads * total * 2)
        self.attention_weights = nn.Linear(dim, num_heads * total)
        scale = [1 / points for points in points_per_level for _ in range(points)]
        self.register_buffer("num_points_scale", torch.tensor(scale))
        self._reset()

    def _reset(self) -> None:
        """Heads start looking in different directions, points of a level at growing distances."""
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # [heads, 2]
        direction = direction / direction.abs().amax(-1, keepdim=True)
        reach = torch.cat([torch.arange(1, points + 1) for points in self.points_per_level])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((direction[:, None] * reach[:, None]).flatten())

    def sampling_places(self, query: Tensor, reference_boxes: Tensor) -> Tensor:
        """Where each head looks.

        Args:
            query: `[B, Q, D]`.
            reference_boxes: cxcywh `[B, Q, 4]`, 0..1.

        Returns:
            x and y, 0..1 inside the image, `[B, Q, heads, sum(points), 2]`.
        """
        # Not in bf16 under autocast: rounded offsets move every sample, and make up a quarter of the gradient's error.
        kind = query.device.type
        with contextlib.nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            offsets = self.sampling_offsets(query.to(self.sampling_offsets.weight.dtype))
        offsets = offsets.unflatten(-1, (self.num_heads, -1, 2))
        reference = reference_boxes[:, :, None, None]
        scale = self.num_points_scale.to(offsets)[:, None] * OFFSET_SCALE
        return reference[..., :2] + offsets * scale * reference[..., 2:]

    def sampling_weights(self, query: Tensor) -> Tensor:
        """How much each place counts, `[B, Q, heads, sum(points)]`, summing to 1 for each head."""
        return self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)

    def forward(
        self, query: Tensor, reference_boxes: Tensor, levels: list[Tensor] | list[tuple[Tensor, ...]]
    ) -> Tensor:
        """Sample and average.

        Args:
            query: `[B, Q, D]`.
            reference_boxes: cxcywh `[B, Q, 4]`, 0..1.
            levels: maps of `split_levels`, `[B * heads, D / heads, h, w]` each, or those of `split_images`.

        Returns:
            `[B, Q, D]`.
        """
        batch, num_queries, width = query.shape
        places = 2 * self.sampling_places(query, reference_boxes) - 1  # grid_sample counts from -1 to 1
        precise = torch.promote_types(places.dtype, torch.float32)  # in half, places would be a tenth of a cell off
        # Queries side by side: sums over the few points of a level run along them.
        places = places.permute(0, 2, 3, 1, 4).flatten(0, 1).to(precise)  # [B * heads, points, Q, 2]
        weights = self.sampling_weights(query).permute(0, 2, 3, 1).flatten(0, 1)
        grids = places.split(self.points_per_level, dim=1)
        shares = weights[:, None].split(self.points_per_level, dim=2)
        attended = 0.0  # [B * heads, D / heads, Q]
        for level, grid, share in zip(levels, grids, shares, strict=True):
            attended = attended + (_sample(level, grid) * share).sum(2)
        return attended.reshape(batch, width, num_queries).transpose(1, 2)


def _sample(level: Tensor | tuple[Tensor, ...], grid: Tensor) -> Tensor:
    """Numbers at places `[B * heads, points, Q, 2]`: `[B * heads, D / heads, points, Q]`; 0 outside the map."""
    if isinstance(level, tuple):  # image by image
        grids = grid.split(len(level[0]))
        return torch.cat([_sample(one, own) for one, own in zip(level, grids, strict=True)])
    return F.grid_sample(level.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
