"""Deformable cross-attention: each query samples the feature maps at a few locations around its box.

Attention to every token would cost a product with all of them; here the query itself says where to sample.
"""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OFFSET_SCALE = 0.5  # an offset of as many as there are points reaches the edge of the reference box


def split_heads(maps: list[Tensor], num_heads: int) -> list[Tensor]:
    """Feature maps `[B, D, h, w]` head by head, `[B * heads, D / heads, h, w]`; once for all decoder layers.

    At least in float32, as sampling locations are: `grid_sample` takes both in one dtype.
    """
    maps = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in maps]
    return [x.unflatten(1, (num_heads, -1)).flatten(0, 1) for x in maps]


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
        """Heads start in different directions, the points of a level at growing distances."""
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # [heads, 2]
        direction = direction / direction.abs().amax(-1, keepdim=True)
        reach = torch.cat([torch.arange(1, points + 1) for points in self.points_per_level])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((direction[:, None] * reach[:, None]).flatten())

    def sampling_locations(self, query: Tensor, reference_boxes: Tensor) -> Tensor:
        """Where each head samples.

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
        """Attention weight of each sampling location, `[B, Q, heads, sum(points)]`; the sum for each head is 1."""
        return self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)

    def forward(self, query: Tensor, reference_boxes: Tensor, levels: list[Tensor]) -> Tensor:
        """Sample, and sum by attention weight.

        Args:
            query: `[B, Q, D]`.
            reference_boxes: cxcywh `[B, Q, 4]`, 0..1.
            levels: feature maps from `split_heads`, `[B * heads, D / heads, h, w]` each.

        Returns:
            `[B, Q, D]`.
        """
        locations = 2 * self.sampling_locations(query, reference_boxes) - 1  # grid_sample counts from -1 to 1
        weights = self.sampling_weights(query)
        # Queries last: sums over the few points of a level then run along contiguous memory.
        locations = locations.permute(0, 2, 3, 1, 4).flatten(0, 1)  # [B * heads, points, Q, 2]
        weights = weights.permute(0, 2, 3, 1).flatten(0, 1)[:, None]  # [B * heads, 1, points, Q]
        # In half precision locations would be a tenth of a cell off.
        locations = locations.to(torch.promote_types(locations.dtype, torch.float32))
        attended = 0.0  # [B * heads, D / heads, Q]
        for level, grid, weight in zip(
            levels,
            locations.split(self.points_per_level, dim=1),
            weights.split(self.points_per_level, dim=2),
            strict=True,
        ):
            attended = attended + (self.sample(level, grid) * weight).sum(2)
        batch, num_queries, width = query.shape
        return attended.reshape(batch, width, num_queries).transpose(1, 2)

    @staticmethod
    def sample(level: Tensor, grid: Tensor) -> Tensor:
        """Sample `[N, C, h, w]` at `[N, points, Q, 2]`, bilinearly: `[N, C, points, Q]`; 0 outside the map."""
        return F.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
