"""The refinement decoder on the queries of all images, rows of one matrix `[B * Q, D]`: a linear layer is one node.

The model's `DecoderLayer` serves here too: only its two attentions are swapped.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from dfine_lib.model.decoder import DFINEDecoder, LocationQualityEstimator, make_anchors
from dfine_lib.model.deformable_attention import OFFSET_SCALE, DeformableAttention
from dfine_tools.deploy.graph.encoder import Shapes
from dfine_tools.deploy.graph.folding import linear_layer

_LARGEST_LOGIT = math.log(1 / 1e-5)  # what `inverse_sigmoid` gives at most


class GraphAttention(nn.Module):
    """Self-attention of queries; the products' scale is in the query's weights."""

    def __init__(self, attention: nn.Module, num_queries: int) -> None:
        super().__init__()
        self.num_heads, self.num_queries = attention.num_heads, num_queries
        dim = attention.out_proj.in_features
        weights, biases = attention.in_proj_weight.double().chunk(3), attention.in_proj_bias.double().chunk(3)
        scale = (dim // self.num_heads) ** -0.5
        self.query, self.key, self.value = (
            linear_layer(weight * factor, bias * factor)
            for weight, bias, factor in zip(weights, biases, (scale, 1.0, 1.0), strict=True)
        )
        self.out_proj = attention.out_proj

    def forward(self, x: Tensor, position: Tensor, attn_mask: None = None) -> Tensor:
        """Queries and their positions, `[B * Q, D]` each, to the same."""
        moved = x + position
        query, key, value = (self._heads(y) for y in (self.query(moved), self.key(moved), self.value(x)))
        attended = (query @ key.transpose(-1, -2)).softmax(-1) @ value  # [B, heads, Q, D / heads]
        return self.out_proj(attended.transpose(1, 2).reshape(-1, x.shape[1]))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.num_queries, self.num_heads, x.shape[1] // self.num_heads).transpose(1, 2)


class GraphSampling(nn.Module):
    """Deformable attention; offsets and weights come from one linear layer, offsets in their last unit."""

    def __init__(self, attention: DeformableAttention, num_queries: int) -> None:
        super().__init__()
        self.num_heads, self.points = attention.num_heads, attention.points_per_level
        self.num_queries, self.total = num_queries, sum(self.points)
        scale = 2 * OFFSET_SCALE * attention.num_points_scale.double()  # grid_sample counts from -1 to 1
        scale = scale.repeat_interleave(2).repeat(self.num_heads)
        offsets, weights = attention.sampling_offsets, attention.attention_weights
        parts = [  # per head: first its offsets, then its weights
            torch.cat([part.reshape(self.num_heads, -1, part.shape[-1]) for part in kind], dim=1).flatten(0, 1)
            for kind in (
                (offsets.weight.double() * scale[:, None], weights.weight.double()),
                ((offsets.bias.double() * scale)[:, None], weights.bias.double()[:, None]),
            )
        ]
        self.both = linear_layer(parts[0], parts[1][:, 0])

    def forward(self, query: Tensor, reference_boxes: Tensor, levels: list[Tensor]) -> Tensor:
        """Sample and average; queries lie innermost, for a runtime works along the last axis, and points are few.

        Args:
            query: `[B * Q, D]`.
            reference_boxes: cxcywh `[B * Q, 4]`, 0..1.
            levels: `[B * heads, D / heads, h, w]` each.

        Returns:
            `[B * Q, D]`.
        """
        parts = reference_boxes.split([2, 2], dim=-1)
        centre, size = (part.reshape(-1, 1, 1, 2 * self.num_queries) for part in parts)
        both = self.both(query).reshape(-1, self.num_queries, self.num_heads, 3 * self.total)
        offsets, weights = both.split([2 * self.total, self.total], dim=-1)  # [B, Q, heads, ...]
        offsets = offsets.reshape(-1, self.num_queries, self.num_heads, self.total, 2).permute(0, 2, 3, 1, 4)
        offsets = offsets.reshape(-1, self.num_heads, self.total, 2 * self.num_queries)  # x and y interleaved
        locations = (2 * centre - 1 + offsets * size).reshape(-1, self.total, self.num_queries, 2)
        weights = weights.softmax(-1).permute(0, 2, 3, 1).reshape(-1, 1, self.total, self.num_queries)
        sampled = [
            F.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            for level, grid in zip(levels, locations.split(self.points, dim=1), strict=True)
        ]  # each [B * heads, D / heads, points, Q]
        attended = (torch.cat(sampled, dim=2) * weights).sum(2)
        dim = query.shape[1]
        return attended.reshape(-1, dim, self.num_queries).transpose(1, 2).reshape(-1, dim)


class GraphQuality(nn.Module):
    """A `LocationQualityEstimator` on distributions that are there already; the mean of the peaks is in its weights."""

    def __init__(self, head: LocationQualityEstimator) -> None:
        super().__init__()
        self.top = head.top
        first, self.second = head.reg_conf.layers
        weight = first.weight.double().unflatten(1, (4, self.top + 1))
        weight = weight[..., : self.top] + weight[..., self.top :] / self.top
        self.first = linear_layer(weight.flatten(1), first.bias)

    def forward(self, distribution: Tensor) -> Tensor:
        """`[B * Q, 4, N + 1]` to `[B * Q, 1]`."""
        peaks = distribution.topk(self.top, dim=-1).values
        return self.second(F.relu(self.first(peaks.reshape(-1, 4 * self.top))))


class GraphDecoder(nn.Module):
    """A `DFINEDecoder` in deploy mode; anchors are constants where the input shape is fixed."""

    def __init__(self, decoder: DFINEDecoder, shapes: Shapes) -> None:
        super().__init__()
        config, self.shapes = decoder.config, shapes
        tokens = sum(h * w for h, w in shapes) if shapes else config.num_queries
        self.num_queries, self.num_heads = min(config.num_queries, tokens), config.num_heads
        self.dim, self.edges = config.hidden_dim, config.reg_max + 1
        self.input_proj, self.query_pos_head = decoder.input_proj, decoder.query_pos_head
        self.enc_output, self.enc_score_head = decoder.enc_output, decoder.enc_score_head
        self.enc_bbox_head, self.pre_bbox_head = decoder.enc_bbox_head, decoder.pre_bbox_head
        self.bbox_heads, self.score_head = decoder.dec_bbox_head, decoder.dec_score_head[-1]
        self.layers = decoder.decoder.layers
        for layer in self.layers:
            layer.self_attn = GraphAttention(layer.self_attn, self.num_queries)
            layer.cross_attn = GraphSampling(layer.cross_attn, self.num_queries)
        self.quality = GraphQuality(decoder.decoder.lqe_layers[-1]) if config.has_quality_head else None
        self.direct = config.direct_regression
        # Offsets in sides of the initial box, signed as they move the edges left, top, right, bottom.
        sign = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]).to(decoder.bin_offsets)
        self.register_buffer("bins", sign * decoder.bin_offsets)  # [4, N + 1]
        # A token of an invalid anchor counts as 0: what becomes of it is a constant.
        nothing = self.enc_output.norm(self.enc_output.proj.bias)
        self.register_buffer("nothing", nothing)  # [D]
        self.register_buffer("nothing_score", self.enc_score_head(nothing).max())
        if shapes:
            anchors, valid = make_anchors(shapes)
            self.all_valid = bool(valid.all())
            self.register_buffer("anchors", anchors[0].to(nothing))  # [S, 4]
            self.register_buffer("valid", valid[0].to(nothing.device))  # [S, 1]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps `[B, encoder_dim, h, w]` to logits `[B * Q, C]` and boxes xyxy `[B * Q, 4]`."""
        maps = [project(x) for project, x in zip(self.input_proj, maps, strict=True)]
        shapes = self.shapes or [x.shape[-2:] for x in maps]
        flat = [x.flatten(2) for x in maps]
        content, reference = self._select(torch.cat(flat, dim=2), shapes)
        head = self.dim // self.num_heads
        levels = [x.reshape(-1, head, *shape) for x, shape in zip(flat, shapes, strict=True)]
        return self._refine(content, reference, levels)

    def _select(self, memory: Tensor, shapes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Content `[B * Q, D]` and reference logits `[B * Q, 4]` of the highest-scoring tokens, of `[B, D, S]`."""
        if self.shapes:
            anchors, valid, all_valid = self.anchors, self.valid, self.all_valid
            length = len(anchors)
        else:
            made = make_anchors(shapes)
            anchors, valid, all_valid = made[0][0].to(memory), made[1][0].to(memory.device), False
            length = memory.shape[2]
        tokens = self.enc_output(memory.transpose(1, 2).reshape(-1, self.dim))  # [B * S, D]
        scores = self.enc_score_head(tokens).amax(-1).reshape(-1, length)
        if not all_valid:
            scores = torch.where(valid[:, 0], scores, self.nothing_score)
        chosen = scores.topk(self.num_queries, dim=1).indices  # [B, Q]
        index = chosen[..., None].expand(-1, -1, self.dim)
        content = tokens.reshape(-1, length, self.dim).gather(1, index)
        if not all_valid:
            content = torch.where(valid[chosen], content, self.nothing)
        content = content.reshape(-1, self.dim)
        return content, self.enc_bbox_head(content) + anchors[chosen].reshape(-1, 4)

    def _refine(self, x: Tensor, reference: Tensor, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        boxes, previous, corners = reference.sigmoid(), None, None
        reference = reference.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
        for i, layer in enumerate(self.layers):
            position = self.query_pos_head(boxes).clamp(-10, 10)
            x = layer(x, position, boxes, levels, None)
            if self.direct:
                moved = self.bbox_heads[i](x) + reference
                boxes, reference = moved.sigmoid(), moved.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
                continue
            if i == 0:  # the boxes that all layers refine: edges, and sides
                initial = (self.pre_bbox_head(x) + reference).sigmoid()
                low_high, sides = box_cxcywh_to_xyxy(initial), initial[:, 2:].repeat(1, 2)
            found = self.bbox_heads[i](x if previous is None else x + previous)
            corners = found if corners is None else found + corners
            distribution = corners.reshape(-1, 4, self.edges).softmax(-1)
            edges = low_high + (distribution * self.bins).sum(-1) * sides  # [B * Q, 4] xyxy
            previous = x
            if i < len(self.layers) - 1:
                boxes = box_xyxy_to_cxcywh(edges)
        logits = self.score_head(x)
        if self.direct:
            return logits, box_cxcywh_to_xyxy(boxes)
        return (logits if self.quality is None else logits + self.quality(distribution)), edges
