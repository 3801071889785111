"""The hybrid encoder with its projections folded into what follows them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.model.hybrid_encoder import FusionBlock, HybridEncoder, position_embedding
from dfine_lib.model.layers import SelfAttention
from dfine_tools.deploy.graph.folding import composed, linear_layer, matrix, pointwise

Shapes = list[tuple[int, int]] | None


class MapSelfAttention(nn.Module):
    """Self-attention whose position is part of a constant: query and key of x + p are those of x, and W p + b."""

    def __init__(self, attention: SelfAttention, position: Tensor | None) -> None:
        super().__init__()
        self.num_heads, self.dim = attention.num_heads, attention.out_proj.in_features
        scale = torch.ones(3 * self.dim, 1, dtype=torch.float64)
        scale[: self.dim] = (self.dim // self.num_heads) ** -0.5  # of the products, into the query
        weight = attention.in_proj_weight.double() * scale.to(attention.in_proj_weight.device)
        bias = attention.in_proj_bias.double() * scale[:, 0].to(weight.device)
        self.projection, self.of_position = linear_layer(weight, None), linear_layer(weight[: 2 * self.dim], None)
        self.register_buffer("bias", bias.float())
        self.register_buffer("fixed_shift", None if position is None else self.shift(position.to(self.bias)))
        self.out_proj = attention.out_proj

    def shift(self, position: Tensor) -> Tensor:
        """What position and bias add to query, key and value: `[1, S, D]` to `[1, S, 3D]`."""
        return F.pad(self.of_position(position), (0, self.dim)) + self.bias

    def forward(self, tokens: Tensor, position: Tensor | None) -> Tensor:
        """Tokens `[B, S, D]` to the same shape; position `[1, S, D]`, None where it is fixed."""
        length, shift = tokens.shape[1], self.fixed_shift if position is None else self.shift(position)
        heads = (self.projection(tokens) + shift).reshape(-1, length, 3, self.num_heads, self.dim // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attended = (query @ key.transpose(-1, -2)).softmax(-1) @ value  # [B, heads, S, D / heads]
        return self.out_proj(attended.transpose(1, 2).reshape(-1, length, self.dim))


class MapAttention(nn.Module):
    """The encoder's transformer on a map `[B, D, h, w]`; its `EncoderLayer`s get another self-attention."""

    def __init__(self, encoder: HybridEncoder, shape: tuple[int, int] | None) -> None:
        super().__init__()
        self.dim, self.published, self.shape = encoder.dim, encoder.published_positions, shape
        position = None if shape is None else position_embedding(*shape, self.dim, self.published)
        self.transformer = encoder.encoder[0]
        for layer in self.transformer.layers:
            layer.self_attn = MapSelfAttention(layer.self_attn, position)

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.shape or x.shape[-2:]
        position = None if self.shape else position_embedding(height, width, self.dim, self.published).to(x)
        tokens = self.transformer(x.flatten(2).transpose(1, 2), position)
        return tokens.transpose(1, 2).reshape(-1, self.dim, height, width)


class GraphFusion(nn.Module):
    """A `FusionBlock` from the point on where its first convolution's two halves are there: nothing is split."""

    def __init__(self, block: FusionBlock) -> None:
        super().__init__()
        self.cv2, self.cv3, self.cv4 = block.cv2, block.cv3, block.cv4

    def forward(self, kept: Tensor, worked: Tensor) -> Tensor:
        kept, worked = F.silu(kept), F.silu(worked)
        first = self.cv2(worked)
        return self.cv4(torch.cat([kept, worked, first, self.cv3(first)], dim=1))


class GraphEncoder(nn.Module):
    """A `HybridEncoder`; maps fine to coarse in and out.

    A 1 x 1 convolution may come before upsampling instead of after it, at a quarter of the cost; lateral convolutions,
    which nothing but 1 x 1 convolutions read, go into those; and so do projections of backbone maps where that is not
    more work.
    """

    def __init__(self, encoder: HybridEncoder, shapes: Shapes) -> None:
        super().__init__()
        dim, steps = encoder.dim, len(encoder.lateral_convs)
        self.attention = MapAttention(encoder, shapes and shapes[-1])
        self.projections = nn.ModuleList([nn.Identity() for _ in range(steps)] + [encoder.input_proj[-1]])
        self.from_coarse, self.from_fine = nn.ModuleList(), nn.ModuleList()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.downsample = encoder.downsample_convs
        for i in range(steps):
            block, lateral, level = encoder.fpn_blocks[i], encoder.lateral_convs[i].conv, steps - 1 - i
            weight, bias = matrix(block.cv1.conv)
            coarse, fine = composed(weight[:, :dim], bias, lateral), (weight[:, dim:], torch.zeros_like(bias))
            project = encoder.input_proj[level]
            channels = project.conv.in_channels
            if 2 * dim * channels <= channels * dim + 2 * dim * dim:
                fine = composed(*fine, project.conv)
            else:
                self.projections[level] = project
            self.from_coarse.append(_halves(*coarse))
            self.from_fine.append(_halves(*fine))
            self.down.append(GraphFusion(block))
        self.from_both = nn.ModuleList()
        for i in range(steps):
            block, lateral = encoder.pan_blocks[i], encoder.lateral_convs[steps - 1 - i].conv
            weight, bias = matrix(block.cv1.conv)
            inner, shifted = composed(weight[:, dim:], bias, lateral)
            self.from_both.append(_halves(torch.cat([weight[:, :dim], inner], dim=1), shifted))
            self.up.append(GraphFusion(block))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [project(x) for project, x in zip(self.projections, maps, strict=True)]
        inner = [self.attention(maps[-1])]  # coarse to fine, before the lateral convolutions
        for coarse, fine, fuse, finer in zip(self.from_coarse, self.from_fine, self.down, maps[-2::-1], strict=True):
            halves = [
                F.interpolate(low(inner[-1]), scale_factor=2.0, mode="nearest") + high(finer)
                for low, high in zip(coarse, fine, strict=True)
            ]
            inner.append(fuse(*halves))
        outer = [inner[-1]]  # fine to coarse
        for shrink, both, fuse, coarser in zip(self.downsample, self.from_both, self.up, inner[-2::-1], strict=True):
            joined = torch.cat([shrink(outer[-1]), coarser], dim=1)
            outer.append(fuse(*(half(joined) for half in both)))
        return outer


def _halves(weight: Tensor, bias: Tensor) -> nn.ModuleList:
    return nn.ModuleList(pointwise(*half) for half in zip(weight.chunk(2), bias.chunk(2), strict=True))
