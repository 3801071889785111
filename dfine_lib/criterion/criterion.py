"""From the model's outputs and the targets to named losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dfine_lib.config import LossConfig, ModelConfig, Recipe
from dfine_lib.criterion import losses
from dfine_lib.criterion.matcher import MatchedIndices, match, union_set
from dfine_lib.data.targets import Targets, TargetsLike
from dfine_lib.device import copy_to
from dfine_lib.model.distribution import encode_edges
from dfine_lib.model.outputs import DecoderOutput, DenoisingPlan, DFINEOutput, LayerOutput
from dfine_lib.recipes import get_recipe


def term_names(config: LossConfig, model: ModelConfig) -> list[str]:
    """Names of all terms of a model, denoising included: the same on every rank.

    What a criterion returns has no denoising terms where a batch has no boxes, or the model makes no such queries.
    """
    names, layers, distributions = [], model.num_decoder_layers, not model.direct_regression
    for suffixes in _suffixes(layers, initial=distributions):
        names += [f"loss_{kind}{suffix}" for kind in ("vfl", "bbox", "giou") for suffix in suffixes]
        names += [f"loss_fgl{suffix}" for suffix in suffixes[:layers] if config.fgl and distributions]
        names += [f"loss_ddf{suffix}" for suffix in suffixes[: layers - 1] if config.ddf and distributions]
    return names


def _suffixes(num_layers: int, initial: bool) -> tuple[list[str], list[str]]:
    """Endings of the names of terms, of matching and of denoising queries, in the order of `_Queries.logits`."""
    layers, pre = range(num_layers), ["_pre"] * initial
    matching = [*(f"_aux_{i}" for i in layers[:-1]), "", *pre, "_enc_0"]
    return matching, [*(f"_dn_{i}" for i in layers), *(f"_dn{ending}" for ending in pre)]


def build_criterion(recipe: str | Recipe) -> Criterion:
    """The criterion of a recipe or of its name."""
    return Criterion(get_recipe(recipe).loss)


@dataclass(frozen=True, eq=False)
class Normalizers:
    """What the sums of the losses are divided by. Of one micro-batch: its counts; of a step: float32 scalars."""

    boxes: Tensor | int  # ground-truth boxes
    pairs: Tensor | int  # matched queries: of the union set, where it is used
    unpaired: Tensor | int  # unmatched queries
    dn_unpaired: Tensor | int  # denoising queries that learn no box

    @classmethod
    def of_step(cls, micro_batches: Sequence[Normalizers], device: torch.device) -> Normalizers:
        """Means over all micro-batches of all ranks, in one all-reduce.

        Losses are divided by means, so that the mean of the losses of all micro-batches of all ranks is the loss of all
        their images at once.
        """
        mean = copy_to(device, torch.tensor([astuple(own) for own in micro_batches], dtype=torch.float32)).mean(0)
        number = len(micro_batches)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
            number *= dist.get_world_size()
        boxes, *others = mean
        # A step without boxes divides by 1 in all. Differs from the authors' code, where the mean is at least 1, which
        # weakens steps with fewer boxes than ranks. Where there is none of the others, their sum is 0 too: 0 / tiny.
        return cls(boxes.clamp(min=1 / number), *(other.clamp(min=1e-20) for other in others))

    def of_denoising(self, num_groups: int) -> Normalizers:
        """Normalizers of the denoising queries, which learn every box once in each group."""
        pairs = self.boxes * num_groups
        return Normalizers(pairs, pairs, self.dn_unpaired, self.dn_unpaired)

    def ddf_weights(self) -> Tensor:
        """Weights of the means over matched and over unmatched queries, `[2]`: square roots of their numbers, sum 1."""
        numbers = torch.stack([self.pairs, self.unpaired])
        roots = (numbers / numbers.sum()).sqrt()
        return roots / roots.sum()


@dataclass(frozen=True, eq=False)
class _Queries:
    """Matching or denoising queries: their K predictions, and which query learns which box.

    The K predictions are the outputs of the L decoder layers, the initial box (not with direct regression) and, of
    matching queries, the encoder's.
    """

    logits: Tensor  # [K, B, Q, C]
    boxes_cxcywh: Tensor  # [K, B, Q, 4]
    corner_logits: Tensor | None  # [L, B, Q, 4, N + 1]; None with direct regression
    per_layer: MatchedIndices  # of each prediction by itself
    union: MatchedIndices  # of all predictions alike (GO); without the union set, `per_layer` again
    suffixes: list[str]  # K endings of the names of terms


@dataclass(frozen=True)
class Criterion:
    """Losses of one step. Keeps nothing between steps.

    With several ranks, losses are divided by means over all ranks: the mean of the ranks' losses is the loss of one
    process with all their images. The same holds for the micro-batches of a step, if they are given the normalizers of
    the step. (Denoising queries are made within a micro-batch, so their terms are equal in expectation.)
    """

    config: LossConfig

    def __call__(
        self, outputs: DFINEOutput, targets: TargetsLike, normalizers: Normalizers | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses, float32 scalars.

        Names are `loss_{vfl,bbox,giou,fgl,ddf}` followed by nothing (last layer), `_aux_i` (earlier layers), `_pre`
        (initial boxes), `_enc_0` (encoder), `_dn_i` and `_dn_pre` (denoising). Their sum is the training loss.

        Args:
            outputs: of the model in training mode.
            targets: `Targets`, or for each image `labels` int64 `[G]` and `boxes` cxcywh `[G, 4]` in 0..1.
            normalizers: of a step of several micro-batches; None: these images are this rank's whole step.
        """
        targets, plan = Targets.of_images(targets), outputs.denoising_plan
        queries = self._matching_queries(outputs, targets)
        if normalizers is None:
            counts = _counts(queries, targets, plan.num_groups if plan else 0)
            normalizers = Normalizers.of_step([counts], queries.logits.device)
        ddf_weights = normalizers.ddf_weights()
        terms = self._terms(queries, targets, outputs.bin_offsets, normalizers, ddf_weights)
        if outputs.denoising is not None and plan is not None:
            # As in the released code, DDF has the same two weights for denoising queries.
            queries = _denoising_queries(outputs.denoising, plan)
            normalizers = normalizers.of_denoising(plan.num_groups)
            terms |= self._terms(queries, targets, outputs.bin_offsets, normalizers, ddf_weights)
        return terms

    def counts(self, outputs: DFINEOutput, targets: TargetsLike, num_groups: int) -> Normalizers:
        """Counts of one micro-batch, for `Normalizers.of_step`.

        Args:
            outputs: of the model in training mode; denoising queries may be left out.
            targets: of the micro-batch.
            num_groups: number of denoising groups for these targets.
        """
        targets = Targets.of_images(targets)
        return _counts(self._matching_queries(outputs, targets), targets, num_groups)

    def _matching_queries(self, outputs: DFINEOutput, targets: Targets) -> _Queries:
        if outputs.decoder is None or outputs.encoder is None:
            raise ValueError("the criterion needs the outputs of all layers: call the model in training mode")
        logits, boxes, corner_logits = _predictions(outputs.decoder, outputs.encoder)
        matched = match(logits.detach(), boxes.detach(), targets, self.config)
        per_layer = matched.to(logits.device)
        union = union_set(matched, logits.shape[2]).to(logits.device) if self.config.union_set else per_layer
        return _Queries(logits, boxes, corner_logits, per_layer, union, _suffixes_of(outputs.decoder)[0])

    def _terms(
        self,
        queries: _Queries,
        targets: Targets,
        bin_offsets: Tensor,
        normalizers: Normalizers,
        ddf_weights: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted terms of one set of queries, by name."""
        config = self.config
        l1, giou, iou = self._l1_and_giou(queries, targets)
        terms = {
            "vfl": config.vfl * self._vfl(queries, targets, iou) / normalizers.boxes,
            "bbox": config.bbox * l1 / normalizers.pairs,
            "giou": config.giou * giou / normalizers.pairs,
        }
        if config.fgl and queries.corner_logits is not None:
            terms["fgl"] = config.fgl * self._fgl(queries, targets, bin_offsets, iou) / normalizers.pairs
        if config.ddf and queries.corner_logits is not None and len(queries.corner_logits) > 1:
            matched, unmatched = self._ddf(queries, iou)
            # Means over the queries of this micro-batch, weighted by its part of the step's queries. Multiplying and
            # dividing by its own numbers changes nothing but the last bit, which repeats the recorded runs.
            pairs = queries.union.query.shape[1]
            numbers = max(1, pairs), max(1, queries.logits[0, :, :, 0].numel() - pairs)
            of_matched = ddf_weights[0] * numbers[0] / normalizers.pairs * (matched / numbers[0])
            of_unmatched = ddf_weights[1] * numbers[1] / normalizers.unpaired * (unmatched / numbers[1])
            terms["ddf"] = config.ddf * (of_matched + of_unmatched)
        return {
            f"loss_{kind}{queries.suffixes[k]}": value
            for kind, values in terms.items()
            for k, value in enumerate(values)
        }

    def _l1_and_giou(self, queries: _Queries, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """L1 and GIoU of all K predictions, matched by the union set; and the IoU of the matched queries, `[K, P]`."""
        boxes = losses.gather_matched(queries.boxes_cxcywh, queries.union)
        return losses.box_losses(boxes, targets.boxes_cxcywh[queries.union.box])

    def _vfl(self, queries: _Queries, targets: Targets, iou: Tensor) -> Tensor:
        """VFL (VarifocalNet, eq. 2) of all K predictions, each matched by itself: scores stay one query for one box."""
        indices, config = queries.per_layer, self.config
        if indices is not queries.union:  # other matched queries than those that `iou` belongs to
            boxes = losses.gather_matched(queries.boxes_cxcywh.detach(), indices)
            iou = losses.box_losses(boxes, targets.boxes_cxcywh[indices.box])[2]
        return losses.varifocal_loss(queries.logits, indices, targets.labels, iou, config.vfl_alpha, config.vfl_gamma)

    def _fgl(self, queries: _Queries, targets: Targets, bin_offsets: Tensor, iou: Tensor) -> Tensor:
        """FGL (D-FINE, eq. 6) of the L decoder layers, matched by the union set."""
        layers = len(queries.corner_logits)
        indices = queries.union.first(layers)
        initial_boxes = queries.boxes_cxcywh[layers].detach()  # b0 learns by L1 and GIoU alone
        initial_boxes = initial_boxes[indices.image, indices.query]
        left, weight_right = encode_edges(initial_boxes, targets.boxes_cxcywh[indices.box], bin_offsets)
        corner_logits = losses.gather_matched(queries.corner_logits, indices)
        return losses.fine_grained_localization_loss(corner_logits, left, weight_right, iou[:layers])

    def _ddf(self, queries: _Queries, iou: Tensor) -> tuple[Tensor, Tensor]:
        """DDF (D-FINE, eq. 8) of layers 1 to L - 1, which learn from layer L: sums over matched and unmatched queries.

        Matched by the union set, so that a query is matched in all layers or in none.
        """
        students = len(queries.corner_logits) - 1
        divergence = losses.softened_divergence(
            queries.corner_logits[:students], queries.corner_logits[students], self.config.temperature
        )
        indices, teacher_logits = queries.union.first(students), queries.logits[students]
        return losses.decoupled_distillation_loss(divergence, indices, iou[:students], teacher_logits)


def _predictions(decoder: DecoderOutput, *others: LayerOutput) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits and boxes of decoder layers, initial boxes and others, and corner logits of the layers, in float32."""
    others = [other for other in (decoder.initial, *others) if other is not None]
    logits = torch.cat([decoder.logits, *(other.logits[None] for other in others)])
    boxes = torch.cat([decoder.boxes_cxcywh, *(other.boxes_cxcywh[None] for other in others)])
    return logits.float(), boxes.float(), None if decoder.corner_logits is None else decoder.corner_logits.float()


def _suffixes_of(decoder: DecoderOutput) -> tuple[list[str], list[str]]:
    return _suffixes(len(decoder.logits), initial=decoder.initial is not None)


def _denoising_queries(decoder: DecoderOutput, plan: DenoisingPlan) -> _Queries:
    """Denoising queries are not matched: each knows the box that it was made from."""
    known = MatchedIndices(plan.image[None], plan.query[None], plan.box[None])
    return _Queries(*_predictions(decoder), known, known, _suffixes_of(decoder)[1])


def _counts(queries: _Queries, targets: Targets, num_groups: int) -> Normalizers:
    boxes, pairs = len(targets.labels), queries.union.query.shape[1]
    num_queries = queries.logits.shape[1] * queries.logits.shape[2]
    dn_queries = len(targets) * 2 * max(targets.counts, default=0) * num_groups
    return Normalizers(boxes, pairs, num_queries - pairs, dn_queries - boxes * num_groups)
