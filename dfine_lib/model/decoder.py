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
from dfine_lib.model.autograd import by_hand
from dfine_lib.model.deformable_attention import DeformableAttention, split_images, split_levels
from dfine_lib.model.denoising import DenoisingQueries, make_denoising_queries, pad_queries
from dfine_lib.model.distribution import decode_boxes, expected_offsets, weighting_function
from dfine_lib.model.layers import MLP, ConvNorm, SelfAttention, as_tokens
from dfine_lib.model.outputs import DecoderOutput, DFINEOutput, LayerOutput

DERIVED_KEYS = ("anchors", "valid_mask")  # in published files; functions of the input size, so not kept here


class Gate(nn.Module):
    """Two learned gates weigh what a query was against what it saw; `[B, Q, D]` each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, query: Tensor, attended: Tensor) -> Tensor:
        keep, take = self.gate(torch.cat([query, attended], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * query + take * attended)


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the image, gate, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = SelfAttention(dim, config.num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, config.num_heads, config.points_per_level)
        self.gateway = Gate(dim)
        self.linear1 = nn.Linear(dim, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, dim)
        self.norm3 = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self, x: Tensor, position: Tensor, reference_boxes: Tensor, levels: list[Tensor], may_attend: Tensor | None
    ) -> Tensor:
        x = self.norm1(x + self.self_attn(x, position, may_attend))
        x = self.gateway(x, self.cross_attn(x + position, reference_boxes, levels))
        fed = self.linear2(F.relu(self.linear1(x)))
        return self.norm3((x + fed).clamp(-65504, 65504))  # the range of float16


class QualityHead(nn.Module):
    """Sharp distributions mean good boxes: turn their peaks into one number added to every class logit (LQE)."""

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
    """Decoder layers and their quality heads (`decoder.decoder` in published files)."""

    def __init__(self, config: ModelConfig, up: nn.Parameter, reg_scale: nn.Parameter) -> None:
        super().__init__()
        self.up, self.reg_scale = up, reg_scale
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        heads = config.num_decoder_layers if config.quality_head else 0
        self.lqe_layers = nn.ModuleList(QualityHead() for _ in range(heads))


class EncoderOutput(nn.Module):
    """Tokens made ready for query selection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.proj.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.proj(tokens))


def make_anchors(shapes: list[tuple[int, int]], base_side: float = 0.05) -> tuple[Tensor, Tensor]:
    """One anchor box a token.

    Args:
        shapes: height and width of every level, fine to coarse.
        base_side: side of the finest level's anchors as a fraction of the image; doubles at each level.

    Returns:
        Anchor logits `[1, S, 4]` (cxcywh; +inf where invalid) and valid bool `[1, S, 1]`. An anchor is valid where
        all four numbers lie in (0.01, 0.99).
    """
    anchors = []
    for level, (h, w) in enumerate(shapes):
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        side = torch.full_like(x, base_side * 2**level)
        anchors.append(torch.stack([x, y, side, side], dim=-1).flatten(0, 1))
    boxes = torch.cat(anchors)[None]
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    return torch.log(boxes / (1 - boxes)).masked_fill(~valid, torch.inf), valid


class DFINEDecoder(nn.Module):
    """Maps of the encoder to classes, boxes and the edge distributions behind them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, layers, bins = config.hidden_dim, config.num_decoder_layers, config.reg_max + 1
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
        self.pre_bbox_head = MLP(dim, dim, 4, 3)
        self.dec_bbox_head = nn.ModuleList(MLP(dim, dim, 4 * bins, 3) for _ in range(layers))
        self._reset()
        self._set_bins()
        self.register_load_state_dict_pre_hook(_drop_derived)
        self.register_load_state_dict_post_hook(_follow_stored_bins)
        self._anchors: dict[tuple, tuple[Tensor, Tensor]] = {}
        self.deployed = False
        self.denoising_multiple = 0  # denoising queries are padded to a multiple of this; 0: not at all

    def keep_last_only(self) -> None:
        """Drop what only training, or a look at all layers, needs: early heads and the denoising embedding."""
        self.deployed = True
        for heads in (self.dec_score_head, self.decoder.lqe_layers):
            for i in range(len(heads) - 1):
                heads[i] = nn.Identity()
        self.denoising_class_embed = nn.Identity()

    def _reset(self) -> None:
        rare = -math.log((1 - 0.01) / 0.01)  # every class starts at a probability of 0.01
        for head in (self.enc_score_head, *self.dec_score_head):
            nn.init.constant_(head.bias, rare)
        for head in (self.enc_bbox_head, self.pre_bbox_head, *self.dec_bbox_head):
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
        for layer in self.query_pos_head.layers:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.denoising_class_embed.weight[:-1])

    def _set_bins(self) -> None:
        """W(n) of the stored `up` and `reg_scale`; they are not trained, so once is enough."""
        up, reg_scale = abs(self.up.item()), abs(self.reg_scale.item())
        with torch.inference_mode(False):  # training may follow
            bins = weighting_function(self.config.reg_max, up, reg_scale, self.config.uniform_bins)
            bins = bins.to(self.reg_scale.device)
        self.register_buffer("bin_offsets", bins, persistent=False)

    def forward(self, maps: list[Tensor], targets: TargetsLike | None = None, keep_layers: bool = False) -> DFINEOutput:
        """Decode.

        Args:
            maps: `[B, encoder_dim, h, w]`, fine to coarse.
            targets: for each image `labels` int64 `[G]` and `boxes` cxcywh `[G, 4]`; used in training mode only.
            keep_layers: keep every layer's answer in eval mode too.
        """
        keep_layers = keep_layers or self.training
        if keep_layers and self.deployed:
            raise ValueError("this model is in its deployed form, which has the last layer's answer only")
        maps = [project(x) for project, x in zip(self.input_proj, maps, strict=True)]
        shapes = [tuple(x.shape[-2:]) for x in maps]
        memory = torch.cat([as_tokens(x) for x in maps], dim=1)  # [B, S, D]
        content, reference, encoder = self._select(memory, shapes, keep_layers)

        num_queries, noise, may_attend = content.shape[1], None, None
        if self.training and targets is not None and self.config.num_denoising:
            config = self.config
            noise = make_denoising_queries(
                targets, config.num_classes, num_queries, config.num_denoising,
                config.label_noise_ratio, config.box_noise_scale,
            )  # fmt: skip
            content, reference, may_attend = self._with_denoising(content, reference, noise)

        heads = self.config.num_heads
        levels = split_images(maps, heads) if by_hand(memory, self.training) else split_levels(memory, shapes, heads)
        decoder, denoising = self._refine(content, reference, levels, may_attend, keep_layers), None
        if noise is not None:
            first = noise.plan.num_queries
            denoising, decoder = _of_queries(decoder, 0, first), _of_queries(decoder, first, first + num_queries)
        return DFINEOutput(
            pred_logits=decoder.logits[-1],
            pred_boxes=decoder.boxes_cxcywh[-1],
            decoder=decoder if keep_layers else None,
            encoder=encoder,
            bin_offsets=self.bin_offsets,
            denoising=denoising,
            denoising_plan=noise.plan if noise else None,
        )

    def _select(
        self, memory: Tensor, shapes: list[tuple[int, int]], keep: bool
    ) -> tuple[Tensor, Tensor, LayerOutput | None]:
        """The Q tokens most sure of holding an object: content `[B, Q, D]`, reference logits `[B, Q, 4]`."""
        anchors, valid = (x.expand(memory.shape[0], -1, -1) for x in self._anchors_for(shapes, memory.device))
        # In training the chosen tokens alone are made once more with gradients: the others would only get zeros.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            tokens = self.enc_output(memory * valid)
            logits = self.enc_score_head(tokens)
        num_queries = min(self.config.num_queries, memory.shape[1])  # small inputs have fewer tokens than queries
        chosen = logits.amax(-1).topk(num_queries, dim=1).indices[..., None]  # [B, Q, 1]

        def pick(x: Tensor) -> Tensor:
            return x.gather(1, chosen.expand(-1, -1, x.shape[-1]))

        content = self.enc_output(pick(memory) * pick(valid)) if self.training else pick(tokens)
        reference = self.enc_bbox_head(content) + pick(anchors)
        encoder = None
        if keep:
            chosen_logits = self.enc_score_head(content) if self.training else pick(logits)
            encoder = LayerOutput(chosen_logits, reference.sigmoid())
        return content.detach(), reference.detach(), encoder

    def _with_denoising(
        self, content: Tensor, reference: Tensor, noise: DenoisingQueries | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Content and reference of all queries, denoising ones first, and who may attend to whom."""
        if noise is None:
            # No box in the batch. Processes that train together wait for the same gradients of each: this one's is 0.
            nothing = torch.zeros(content.shape[0], 0, dtype=torch.int64, device=content.device)
            return torch.cat([self.denoising_class_embed(nothing).to(content), content], dim=1), reference, None
        content = torch.cat([self.denoising_class_embed(noise.labels).to(content), content], dim=1)
        reference = torch.cat([noise.reference_logits.to(reference), reference], dim=1)
        first = noise.plan.num_queries
        if not self.denoising_multiple:
            return content, reference, noise.attn_mask[:first]  # matching queries see each other only
        more = -first % self.denoising_multiple
        return pad_queries(content, reference, noise.attn_mask, content.shape[1] + more)

    def _anchors_for(self, shapes: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
        if any(isinstance(side, torch.SymInt) for shape in shapes for side in shape):  # exported for images of any side
            return tuple(x.to(device) for x in make_anchors(shapes))
        key = (tuple(shapes), device)
        if key not in self._anchors:
            if len(self._anchors) > 32:  # multi-scale training needs a dozen
                self._anchors.clear()
            with torch.inference_mode(False):  # training may meet what an evaluation has put here
                self._anchors[key] = tuple(x.to(device) for x in make_anchors(shapes))
        return self._anchors[key]

    def _refine(
        self, x: Tensor, reference: Tensor, levels: list[Tensor], may_attend: Tensor | None, keep_layers: bool
    ) -> DecoderOutput:
        last = self.config.num_decoder_layers - 1
        reference_boxes = reference.sigmoid()
        previous, corner_logits = 0.0, 0.0
        answers: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, layer in enumerate(self.decoder.layers):
            position = self.query_pos_head(reference_boxes).clamp(-10, 10)
            x = layer(x, position, reference_boxes, levels, may_attend)
            if i == 0:
                initial_boxes = (self.pre_bbox_head(x) + inverse_sigmoid(reference_boxes)).sigmoid()
                initial = LayerOutput(self.dec_score_head[0](x), initial_boxes) if keep_layers else None
                fixed_boxes = initial_boxes.detach()  # b0: what all layers refine
            # Refinement adds up in logits; the sum keeps its gradient, the previous layer's features do not.
            corner_logits = self.dec_bbox_head[i](x + previous).unflatten(-1, (4, -1)) + corner_logits
            boxes = decode_boxes(fixed_boxes, expected_offsets(corner_logits, self.bin_offsets))
            if keep_layers or i == last:
                logits = self.dec_score_head[i](x)
                if self.config.quality_head:
                    logits = self.decoder.lqe_layers[i](logits, corner_logits)
                answers.append((logits, boxes, corner_logits))
            reference_boxes, previous = boxes.detach(), x.detach()
        return DecoderOutput(*(torch.stack(kind) for kind in zip(*answers, strict=True)), initial=initial)


def _of_queries(output: DecoderOutput, start: int, end: int) -> DecoderOutput:
    """The answers of queries `start` to `end` alone, of all layers."""
    queries, initial = slice(start, end), output.initial
    return DecoderOutput(
        output.logits[:, :, queries],
        output.boxes_cxcywh[:, :, queries],
        output.corner_logits[:, :, queries],
        LayerOutput(initial.logits[:, queries], initial.boxes_cxcywh[:, queries]),
    )


def _follow_stored_bins(module: DFINEDecoder, *_: object) -> None:
    module._set_bins()


def _drop_derived(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in DERIVED_KEYS:
        state_dict.pop(prefix + key, None)
