"""The decoder: queries become objects, and every layer refines the four edge distributions of each box.

Source: D-FINE (arXiv 2410.13842), section 4. Attribute names are the published state-dict keys.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.boxes import inverse_sigmoid
from dfine_lib.config import ModelConfig
from dfine_lib.data.targets import TargetsLike
from dfine_lib.model.deformable_attention import DeformableAttention, split_heads
from dfine_lib.model.denoising import DenoisingQueries, make_denoising_queries
from dfine_lib.model.distribution import decode_boxes, expected_offsets, weighting_function
from dfine_lib.model.layers import MLP, ConvNorm, SelfAttention, as_tokens
from dfine_lib.model.outputs import DecoderOutput, DFINEOutput, LayerOutput

DERIVED_KEYS = ("anchors", "valid_mask")  # in published files; functions of the input size, so not kept here


class TargetGatingLayer(nn.Module):
    """Two learned weights, one for a query's features and one for what cross-attention added; `[B, Q, D]` each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, query: Tensor, attended: Tensor) -> Tensor:
        old, new = self.gate(torch.cat([query, attended], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(old * query + new * attended)


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable cross-attention to the image, target gating layer, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = SelfAttention(dim, config.num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, config.num_heads, config.points_per_level)
        self.gateway = TargetGatingLayer(dim)
        self.linear1 = nn.Linear(dim, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, dim)
        self.norm3 = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self, x: Tensor, position: Tensor, reference_boxes: Tensor, levels: list[Tensor], attn_mask: Tensor | None
    ) -> Tensor:
        """Queries `[B, Q, D]`, their position embedding and reference boxes `[B, Q, 4]`, to `[B, Q, D]`."""
        x = self.norm1(x + self.self_attn(x, position, attn_mask))
        x = self.gateway(x, self.cross_attn(x + position, reference_boxes, levels))
        fed = self.linear2(F.relu(self.linear1(x)))
        return self.norm3((x + fed).clamp(-65504, 65504))  # the range of float16: beyond it lies inf, and then NaN


class LocationQualityEstimator(nn.Module):
    """LQE: sharp edge distributions mean a good box, so their peaks become one number added to every class logit."""

    def __init__(self, top: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.top = top
        self.reg_conf = MLP(4 * (top + 1), hidden, 1, 2)
        nn.init.zeros_(self.reg_conf.layers[-1].weight)
        nn.init.zeros_(self.reg_conf.layers[-1].bias)

    def forward(self, logits: Tensor, corner_logits: Tensor) -> Tensor:
        """`[B, Q, C]` and `[B, Q, 4, N + 1]` to `[B, Q, C]`."""
        peaks = corner_logits.softmax(-1).topk(self.top, dim=-1).values  # [B, Q, 4, top]
        statistics = torch.cat([peaks, peaks.mean(-1, keepdim=True)], dim=-1)
        return logits + self.reg_conf(statistics.flatten(-2))


class RefinementDecoder(nn.Module):
    """Decoder layers and their location quality estimators (`decoder.decoder` in published files)."""

    def __init__(self, config: ModelConfig, up: nn.Parameter, reg_scale: nn.Parameter) -> None:
        super().__init__()
        self.up, self.reg_scale = up, reg_scale
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        heads = config.num_decoder_layers if config.has_quality_head else 0
        self.lqe_layers = nn.ModuleList(LocationQualityEstimator() for _ in range(heads))


class EncoderOutput(nn.Module):
    """Linear layer and norm on the tokens that queries are selected from."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.proj.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.proj(tokens))


def make_anchors(
    shapes: list[tuple[int, int]], base_side: float = 0.05, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """One anchor box for each token.

    Args:
        shapes: height and width of every level, fine to coarse.
        base_side: side of the finest level's anchors as a fraction of the image; doubles at each level.

    Returns:
        Anchor logits `[1, S, 4]` (cxcywh; +inf where invalid) and valid bool `[1, S, 1]`. An anchor is valid where
        all four numbers lie in (0.01, 0.99).
    """
    anchors = []
    for level, (h, w) in enumerate(shapes):
        row, column = (torch.arange(side, device=device) for side in (h, w))
        y, x = torch.meshgrid((row + 0.5) / h, (column + 0.5) / w, indexing="ij")
        side = torch.full_like(x, base_side * 2**level)
        anchors.append(torch.stack([x, y, side, side], dim=-1).flatten(0, 1))
    boxes = torch.cat(anchors)[None]
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    return torch.log(boxes / (1 - boxes)).masked_fill(~valid, torch.inf), valid


class DFINEDecoder(nn.Module):
    """Feature maps of the encoder to class logits, edge distributions and boxes.

    FDR (Fine-grained Distribution Refinement) is `refine`: every layer adds to the logits of four edge distributions.
    With `direct_regression`, the baseline that D-FINE is compared with, every layer moves the box itself.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, layers = config.hidden_dim, config.num_decoder_layers
        direct, bins = config.direct_regression, config.reg_max + 1
        self.input_proj = nn.ModuleList(
            nn.Identity() if config.encoder_dim == dim else ConvNorm(config.encoder_dim, dim, 1)
            for _ in config.feat_strides
        )
        self.up = nn.Parameter(torch.tensor([config.up]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([config.reg_scale]), requires_grad=False)
        self.decoder = RefinementDecoder(config, self.up, self.reg_scale)
        self.denoising_class_embed = nn.Embedding(config.num_classes + 1, dim, padding_idx=config.num_classes)
        self.query_pos_head = MLP(4, 2 * dim, dim, 2)
        self.enc_output = EncoderOutput(dim)
        self.enc_score_head = nn.Linear(dim, config.num_classes)
        self.enc_bbox_head = MLP(dim, dim, 4, 3)
        self.dec_score_head = nn.ModuleList(nn.Linear(dim, config.num_classes) for _ in range(layers))
        self.pre_bbox_head = None if direct else MLP(dim, dim, 4, 3)
        self.dec_bbox_head = nn.ModuleList(MLP(dim, dim, 4 if direct else 4 * bins, 3) for _ in range(layers))
        self._reset()
        self._set_bins()
        self.register_load_state_dict_pre_hook(_drop_derived)
        self.register_load_state_dict_post_hook(_follow_stored_bins)

    def _reset(self) -> None:
        rare = -math.log((1 - 0.01) / 0.01)  # the logit of 0.01: at first every class is improbable
        for head in (self.enc_score_head, *self.dec_score_head):
            nn.init.constant_(head.bias, rare)
        for head in filter(None, (self.enc_bbox_head, self.pre_bbox_head, *self.dec_bbox_head)):
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
        for layer in self.query_pos_head.layers:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.denoising_class_embed.weight[:-1])

    def _set_bins(self) -> None:
        """W(n) of the stored `up` and `reg_scale`; they are not trained, so once is enough."""
        up, reg_scale = abs(self.up.item()), abs(self.reg_scale.item())
        with torch.inference_mode(False):  # or the buffer could not be used in training later
            bins = weighting_function(self.config.reg_max, up, reg_scale, self.config.uniform_bins)
            bins = bins.to(self.reg_scale.device)
        self.register_buffer("bin_offsets", bins, persistent=False)

    def forward(self, maps: list[Tensor], targets: TargetsLike | None = None, keep_layers: bool = False) -> DFINEOutput:
        """Decode.

        Args:
            maps: `[B, encoder_dim, h, w]`, fine to coarse.
            targets: as of `DFINE.forward`; used in training mode only.
            keep_layers: keep the output of every layer in eval mode too.
        """
        keep_layers = keep_layers or self.training
        maps = [project(x) for project, x in zip(self.input_proj, maps, strict=True)]
        memory = torch.cat([as_tokens(x) for x in maps], dim=1)  # [B, S, D]
        content, reference, encoder = self.select_queries(memory, [x.shape[-2:] for x in maps])

        noise, attn_mask = None, None
        if self.training and targets is not None and self.config.num_denoising:
            config = self.config
            noise = make_denoising_queries(
                targets, config.num_classes, content.shape[1], config.num_denoising,
                config.label_noise_ratio, config.box_noise_scale,
            )  # fmt: skip
            content, reference, attn_mask = self._with_denoising(content, reference, noise)

        decoder, denoising = self.refine(content, reference, self.split_heads(maps), attn_mask, keep_layers), None
        if noise is not None:
            denoising, decoder = decoder.split(noise.plan.num_queries)
        return DFINEOutput(
            pred_logits=decoder.logits[-1],
            pred_boxes=decoder.boxes_cxcywh[-1],
            decoder=decoder if keep_layers else None,
            encoder=encoder if keep_layers else None,
            bin_offsets=None if self.config.direct_regression else self.bin_offsets,
            denoising=denoising,
            denoising_plan=noise.plan if noise else None,
        )

    def select_queries(self, memory: Tensor, shapes: list[tuple[int, int]]) -> tuple[Tensor, Tensor, LayerOutput]:
        """Top-k query selection: the Q tokens with the highest class score become the matching queries.

        Args:
            memory: tokens `[B, S, D]`.
            shapes: height and width of every level.

        Returns:
            Content `[B, Q, D]` and reference boxes as logits `[B, Q, 4]`, both without gradient, and the encoder's own
            prediction at these tokens, which is trained.
        """
        anchors, valid = make_anchors(shapes, device=memory.device)
        tokens = self.enc_output(memory * valid)
        logits = self.enc_score_head(tokens)  # [B, S, C]
        num_queries = min(self.config.num_queries, memory.shape[1])  # small inputs have fewer tokens than queries
        chosen = logits.amax(-1).topk(num_queries, dim=1).indices  # [B, Q]
        content = pick(tokens, chosen)
        reference = self.enc_bbox_head(content) + pick(anchors.expand(memory.shape[0], -1, -1), chosen)
        # The decoder's losses do not train the encoder through its choice, as in DINO: hence detach.
        return content.detach(), reference.detach(), LayerOutput(pick(logits, chosen), reference.sigmoid())

    def _with_denoising(
        self, content: Tensor, reference: Tensor, noise: DenoisingQueries | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Content and reference boxes of all queries, denoising queries first, and their attention mask."""
        if noise is None:
            # No box in the batch. The embedding takes part all the same, with a gradient of 0: other ranks of a
            # distributed step have boxes, and wait for this rank's gradient in the all-reduce.
            nothing = torch.zeros(content.shape[0], 0, dtype=torch.int64, device=content.device)
            return torch.cat([self.denoising_class_embed(nothing).to(content), content], dim=1), reference, None
        content = torch.cat([self.denoising_class_embed(noise.labels).to(content), content], dim=1)
        reference = torch.cat([noise.reference_logits.to(reference), reference], dim=1)
        return content, reference, noise.attn_mask

    def split_heads(self, maps: list[Tensor]) -> list[Tensor]:
        """The feature maps that all layers sample: `split_heads` of the attention module."""
        return split_heads(maps, self.config.num_heads)

    def refine(
        self, x: Tensor, reference: Tensor, levels: list[Tensor], attn_mask: Tensor | None, keep_layers: bool
    ) -> DecoderOutput:
        """Refine each query's box layer by layer: FDR, or direct regression.

        Args:
            x: content of the queries `[B, Q, D]`.
            reference: their reference boxes as logits `[B, Q, 4]`.
            levels: feature maps from `split_heads`.
            attn_mask: bool `[Q, Q]`, or None where all attend to all.
            keep_layers: return every layer's output; else the last layer's alone.
        """
        last = self.config.num_decoder_layers - 1
        reference_boxes = reference.sigmoid()
        previous, corner_logits = 0.0, 0.0
        initial, outputs = None, []
        for i, layer in enumerate(self.decoder.layers):
            position = self.query_pos_head(reference_boxes).clamp(-10, 10)
            x = layer(x, position, reference_boxes, levels, attn_mask)
            if self.config.direct_regression:
                boxes = (self.dec_bbox_head[i](x) + inverse_sigmoid(reference_boxes)).sigmoid()
            else:
                if i == 0:
                    initial_boxes = (self.pre_bbox_head(x) + inverse_sigmoid(reference_boxes)).sigmoid()
                    initial = LayerOutput(self.dec_score_head[0](x), initial_boxes) if keep_layers else None
                    fixed_boxes = initial_boxes.detach()  # b0: its own losses train it, not those of the layers
                # Residual logits add up. The sum keeps its gradient, the features of the previous layer do not.
                corner_logits = self.dec_bbox_head[i](x + previous).unflatten(-1, (4, -1)) + corner_logits
                boxes = decode_boxes(fixed_boxes, expected_offsets(corner_logits, self.bin_offsets))
            if keep_layers or i == last:
                logits = self.dec_score_head[i](x)
                if self.config.has_quality_head:
                    logits = self.decoder.lqe_layers[i](logits, corner_logits)
                outputs.append(LayerOutput(logits, boxes, None if self.config.direct_regression else corner_logits))
            # Each layer is trained by its own losses: the next one samples around its boxes, and does not move them.
            reference_boxes, previous = boxes.detach(), x.detach()
        return DecoderOutput.of_layers(outputs, initial)


def pick(tokens: Tensor, chosen: Tensor) -> Tensor:
    """The chosen tokens: `[B, S, D]` at indices `[B, Q]` to `[B, Q, D]`."""
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))


def _follow_stored_bins(module: DFINEDecoder, *_: object) -> None:
    module._set_bins()


def _drop_derived(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in DERIVED_KEYS:
        state_dict.pop(prefix + key, None)
