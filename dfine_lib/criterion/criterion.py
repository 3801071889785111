"""From the model's answers and the targets to named losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dfine_lib.config import LossConfig, Recipe
from dfine_lib.criterion import losses
from dfine_lib.criterion.matcher import Pairs, match, union_set
from dfine_lib.data.targets import Targets, TargetsLike
from dfine_lib.model.denoising import num_dn_groups
from dfine_lib.model.distribution import encode_edges
from dfine_lib.model.outputs import DecoderOutput, DFINEOutput, LayerOutput
from dfine_lib.recipes import get_recipe


def term_names(config: LossConfig, num_layers: int) -> list[str]:
    """Names of all terms of a model with that many decoder layers, denoising included: the same in every process.

    What a criterion returns has no denoising terms where a batch has no boxes, or the model makes no such queries.
    """
    names = []
    for suffixes in _suffixes(num_layers):
        names += [f"loss_{kind}{suffix}" for kind in ("vfl", "bbox", "giou") for suffix in suffixes]
        names += [f"loss_fgl{suffix}" for suffix in suffixes[:num_layers] if config.fgl]
        names += [f"loss_ddf{suffix}" for suffix in suffixes[: num_layers - 1] if config.ddf]
    return names


def _suffixes(num_layers: int) -> tuple[list[str], list[str]]:
    """Endings of the names of terms, of matching and of denoising queries: layers, then the other guesses."""
    layers = range(num_layers)
    return [*(f"_aux_{i}" for i in layers[:-1]), "", "_pre", "_enc_0"], [*(f"_dn_{i}" for i in layers), "_dn_pre"]


def build_criterion(recipe: str | Recipe) -> Criterion:
    """The criterion of a recipe or of its name."""
    return Criterion(get_recipe(recipe).loss)


@dataclass(frozen=True, eq=False)
class _Answers:
    """All guesses at one set of queries: decoder layers, then the initial guess, then (if there) the encoder's."""

    logits: Tensor  # [K, B, Q, C]; 0..L-1 are the layers, L the initial guess
    boxes: Tensor  # [K, B, Q, 4] cxcywh; likewise
    corner_logits: Tensor  # [L, B, Q, 4, N + 1]
    suffixes: list[str]  # K endings of loss names

    @property
    def initial_boxes(self) -> Tensor:
        """b0, `[B, Q, 4]`, without gradient."""
        return self.boxes[len(self.corner_logits)].detach()


@dataclass(frozen=True, eq=False)
class _Matching:
    """Which query learns which box in each of K guesses, and what the sums over them are divided by."""

    own: Pairs  # of every guess itself; VFL
    shared: Pairs  # of the union set; all other terms
    num_boxes: Tensor
    num_pairs: Tensor


# Places in the five numbers that losses are divided by. Of matching queries those with a box are the union's pairs.
_BOXES, _PAIRS = 0, 1
_MATCHING, _DENOISING = slice(1, 3), slice(3, 5)  # queries with a box, and those without


@dataclass(frozen=True, eq=False)
class Share:
    """What the losses of a step are divided by, where several passes or processes share its images.

    `mean` is that of boxes, matching queries with and without a box, denoising queries with and without one: `[5]`,
    over all passes of all processes. `least` is the mean where the step has one in all: 1 / their number.
    """

    mean: Tensor
    least: float

    @property
    def divisors(self) -> Tensor:
        """The means, where the whole step has at least one of each: `[5]`."""
        return self.mean.clamp(min=self.least)


@dataclass(frozen=True)
class Criterion:
    """Losses of one step. Keeps nothing between steps.

    Processes that train together share their normalisers: the mean of their losses is the loss of one process on all
    their images. So do the passes of a step, if they are given them. (Denoising draws its queries within a pass, so its
    terms are equal in expectation.)
    """

    config: LossConfig

    def __call__(self, outputs: DFINEOutput, targets: TargetsLike, share: Share | None = None) -> dict[str, Tensor]:
        """Weighted losses, float32 scalars.

        Names are `loss_{vfl,bbox,giou,fgl,ddf}` followed by nothing (last layer), `_aux_i` (earlier layers), `_pre`
        (initial boxes), `_enc_0` (encoder), `_dn_i` and `_dn_pre` (denoising). Their sum is the training loss.

        Args:
            outputs: of the model in training mode.
            targets: for each image `labels` int64 `[G]` and `boxes` cxcywh `[G, 4]` in 0..1.
            share: of a step of several passes, from `share`; None: these images are all of this process's step.
        """
        answers, labels, boxes, counts = _together(outputs, targets)
        own, shared = self._pairs(answers, labels, boxes, counts)
        plan = outputs.denoising_plan
        numbers = _numbers(answers, shared, counts, plan.num_groups if plan else 0)
        share = share or _over_ranks([numbers])
        numbers, divisors = numbers.clamp(min=1), share.divisors
        num_boxes, num_pairs = divisors[_BOXES], divisors[_PAIRS]
        # DDF takes means over these queries; that of the step counts them by their numbers.
        ddf_shares = _distillation_shares(share.mean[_MATCHING])  # denoising takes the same
        bins = outputs.bin_offsets
        matching = _Matching(own, shared, num_boxes, num_pairs)
        shares = ddf_shares * numbers[_MATCHING] / divisors[_MATCHING]
        terms = self._terms(answers, matching, labels, boxes, bins, shares)

        if outputs.denoising is not None and plan is not None:
            answers = _denoising_answers(outputs.denoising)
            fixed = Pairs(plan.image[None], plan.query[None], plan.box[None]).repeated(len(answers.suffixes))
            number = num_boxes * plan.num_groups
            matching = _Matching(fixed, fixed, number, number)
            shares = ddf_shares * numbers[_DENOISING] / divisors[_DENOISING]
            terms |= self._terms(answers, matching, labels, boxes, bins, shares)
        return terms

    def share(self, outputs: Iterable[DFINEOutput], targets: Sequence[TargetsLike], num_denoising: int) -> Share:
        """What the losses of several passes are divided by, so that their mean is the loss of all images at once.

        Every process of a step calls it, with as many passes as the others: there is one exchange.

        Args:
            outputs: of each pass, of the model in training mode; denoising queries may be left out.
            targets: of each pass.
            num_denoising: of the model.
        """
        numbers = []
        for output, own in zip(outputs, targets, strict=True):
            answers, labels, boxes, counts = _together(output, own)
            _, shared = self._pairs(answers, labels, boxes, counts)
            numbers.append(_numbers(answers, shared, counts, num_dn_groups(counts, num_denoising)))
        return _over_ranks(numbers)

    def _pairs(self, answers: _Answers, labels: Tensor, boxes: Tensor, counts: list[int]) -> tuple[Pairs, Pairs]:
        """The matching of every guess by itself, and the union set."""
        own = match(answers.logits.detach(), answers.boxes.detach(), labels, boxes, counts, self.config)
        if not self.config.union_set:
            return own, own
        return own, union_set(own, answers.logits.shape[2]).repeated(len(answers.suffixes))

    def _terms(
        self,
        answers: _Answers,
        matching: _Matching,
        labels: Tensor,
        targets: Tensor,
        bins: Tensor,
        ddf_shares: Tensor,
    ) -> dict[str, Tensor]:
        """All terms of one set of queries, by name; what several of them need is computed once."""
        config, num_layers = self.config, answers.corner_logits.shape[0]
        own, shared = matching.own, matching.shared
        l1, giou, iou = losses.box_losses(losses.at_pairs(answers.boxes, shared), targets[shared.box])
        own_iou = iou
        if own is not shared:
            own_iou = losses.box_losses(losses.at_pairs(answers.boxes.detach(), own), targets[own.box])[2]
        vfl = losses.varifocal_loss(answers.logits, own, labels, own_iou, config.vfl_alpha, config.vfl_gamma)
        terms = {
            "vfl": config.vfl * vfl / matching.num_boxes,
            "bbox": config.bbox * l1 / matching.num_pairs,
            "giou": config.giou * giou / matching.num_pairs,
        }
        refined = shared.first(num_layers)
        if config.fgl:
            row = shared.first(1) if config.union_set else refined
            left, weight_right = encode_edges(answers.initial_boxes[row.image, row.query], targets[row.box], bins)
            corner_logits = losses.at_pairs(answers.corner_logits, refined)
            fgl = losses.fine_grained_localization_loss(corner_logits, left, weight_right, iou[:num_layers])
            terms["fgl"] = config.fgl * fgl / matching.num_pairs
        if config.ddf and num_layers > 1:
            students, last = num_layers - 1, num_layers - 1  # layers 0..L-2 learn from layer L-1
            divergence = losses.softened_divergence(
                answers.corner_logits[:students], answers.corner_logits[last], config.temperature
            )
            terms["ddf"] = config.ddf * losses.decoupled_distillation_loss(
                divergence,
                _matched(answers, shared),
                iou[:students],
                shared.first(students),
                answers.logits[last],
                ddf_shares,
            )
        return {
            f"loss_{kind}{answers.suffixes[k]}": value
            for kind, values in terms.items()
            for k, value in enumerate(values)
        }


def _matching_answers(outputs: DFINEOutput) -> _Answers:
    decoder = outputs.decoder
    return _answers(decoder, [decoder.initial, outputs.encoder], _suffixes(len(decoder.logits))[0])


def _denoising_answers(decoder: DecoderOutput) -> _Answers:
    return _answers(decoder, [decoder.initial], _suffixes(len(decoder.logits))[1])


def _answers(decoder: DecoderOutput, others: list[LayerOutput], suffixes: list[str]) -> _Answers:
    return _Answers(
        logits=torch.cat([decoder.logits, *(one.logits[None] for one in others)]).float(),
        boxes=torch.cat([decoder.boxes_cxcywh, *(one.boxes_cxcywh[None] for one in others)]).float(),
        corner_logits=decoder.corner_logits.float(),
        suffixes=suffixes,
    )


def _matched(answers: _Answers, pairs: Pairs) -> Tensor:
    """Which queries of the student layers are matched: bool `[L - 1, B, Q]`."""
    mask = torch.zeros(answers.corner_logits.shape[:3], dtype=torch.bool, device=answers.logits.device)[:-1]
    layer = torch.arange(len(mask), device=mask.device)[:, None]
    mask[layer, pairs.image[: len(mask)], pairs.query[: len(mask)]] = True
    return mask


def _distillation_shares(numbers: Tensor) -> Tensor:
    """Weights of the mean over matched and over unmatched queries, `[2]`: square roots of their numbers, sum 1."""
    roots = (numbers / numbers.sum()).sqrt()
    return roots / roots.sum()


def _together(outputs: DFINEOutput, targets: TargetsLike) -> tuple[_Answers, Tensor, Tensor, tuple[int, ...]]:
    """Guesses; labels `[M]` and cxcywh `[M, 4]` of all boxes, image after image; how many each image has."""
    if outputs.decoder is None or outputs.encoder is None:
        raise ValueError("the criterion needs every layer's answer: call the model in training mode")
    targets = Targets.of_images(targets)
    return _matching_answers(outputs), targets.labels, targets.boxes_cxcywh, targets.counts


def _numbers(answers: _Answers, shared: Pairs, counts: list[int], groups: int) -> Tensor:
    """The numbers of one pass, in the order of `Share.mean`: `[5]`."""
    pairs, queries = shared.query.shape[1], answers.logits.shape[1] * answers.logits.shape[2]
    noised, noised_queries = sum(counts) * groups, len(counts) * 2 * max(counts, default=0) * groups
    numbers = [sum(counts), pairs, queries - pairs, noised, noised_queries - noised]
    return torch.tensor(numbers, dtype=torch.float32, device=answers.logits.device)


def _over_ranks(passes: list[Tensor]) -> Share:
    """Means over all passes of all processes, and what they are where the total is 1.

    Losses are divided by means, so that their own mean is the loss of one process with all images. That one would
    divide by 1 at least, so the total counts as 1 at least.
    Differs from the authors' code, where the mean is at least 1, which weakens steps with fewer boxes than processes.
    One exchange for all numbers, whether a process has boxes or not: the others wait for it.
    """
    mean, shares = torch.stack(passes).mean(0) if len(passes) > 1 else passes[0], len(passes)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        mean, shares = mean.clone(), shares * dist.get_world_size()
        dist.all_reduce(mean)
        mean = mean / dist.get_world_size()
    return Share(mean, 1 / shares)
