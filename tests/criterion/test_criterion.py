"""All terms of one step on a small model: their names, matched indices and normalizers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from published import as_targets, filled
from torch import Tensor
from torch.testing import assert_close

from dfine_lib import DFINE
from dfine_lib.boxes import box_cxcywh_to_xyxy, box_iou
from dfine_lib.config import SIZES, LossConfig
from dfine_lib.criterion import Criterion, build_criterion
from dfine_lib.criterion.criterion import Normalizers
from dfine_lib.criterion.matcher import match, union_set
from dfine_lib.data.targets import Targets
from dfine_lib.model.outputs import DecoderOutput, DFINEOutput
from dfine_lib.recipes import get_recipe

TINY = replace(
    SIZES["pico"],
    encoder_dim=32,
    encoder_feedforward=64,
    hidden_dim=32,
    feedforward=64,
    num_queries=12,
    num_classes=5,
    num_denoising=6,
)
COUNTS = [3, 1]
# The published names, with three decoder layers.
MATCHING_NAMES = {
    *(f"loss_{term}{layer}" for term in ("vfl", "bbox", "giou", "fgl") for layer in ("_aux_0", "_aux_1", "")),
    *(f"loss_ddf{layer}" for layer in ("_aux_0", "_aux_1")),
    *(f"loss_{term}{prediction}" for term in ("vfl", "bbox", "giou") for prediction in ("_pre", "_enc_0")),
}
DENOISING_NAMES = {
    *(f"loss_{term}_dn_{i}" for term in ("vfl", "bbox", "giou", "fgl") for i in range(3)),
    *(f"loss_ddf_dn_{i}" for i in range(2)),
    *(f"loss_{term}_dn_pre" for term in ("vfl", "bbox", "giou")),
}


def tiny(**changes: object) -> DFINE:
    return filled(DFINE(replace(TINY, **changes))).train()


def step(counts: list[int], model: DFINE | None = None, **loss_changes: object) -> SimpleNamespace:
    """One forward pass and its losses."""
    model = model or tiny()
    images = torch.rand(len(counts), 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets = as_targets(counts, 5)
    torch.manual_seed(0)
    outputs = model(images, targets)
    losses = Criterion(replace(LossConfig(), **loss_changes))(outputs, targets)
    return SimpleNamespace(model=model, outputs=outputs, targets=targets, losses=losses)


def matched_by_layer(s: SimpleNamespace) -> tuple:
    """Matched indices of each prediction and the union set, as the criterion makes them."""
    decoder, encoder = s.outputs.decoder, s.outputs.encoder
    predictions = [*decoder.layers, decoder.initial, encoder]
    logits, boxes = (torch.stack([getattr(g, k) for g in predictions]).detach() for k in ("logits", "boxes_cxcywh"))
    targets = Targets.of_images(s.targets)
    own = match(logits, boxes, targets, LossConfig())
    return own, union_set(own, logits.shape[2]), targets.boxes_cxcywh, predictions


# ---- names -----------------------------------------------------------------------------------------------------------


def test_terms_have_the_published_names():
    assert set(step(COUNTS).losses) == MATCHING_NAMES | DENOISING_NAMES


def test_without_denoising_its_terms_are_left_out():
    assert set(step(COUNTS, tiny(num_denoising=0)).losses) == MATCHING_NAMES
    assert set(step([0, 0]).losses) == MATCHING_NAMES


def test_one_decoder_layer_has_nobody_to_learn_from():
    losses = step(COUNTS, tiny(num_decoder_layers=1)).losses
    assert "loss_fgl" in losses
    assert not any(name.startswith("loss_ddf") or "_aux_" in name for name in losses)


def test_losses_are_float32_scalars_after_a_forward_pass_in_bfloat16():
    model, targets = tiny(), as_targets(COUNTS, 5)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.rand(2, 3, 64, 64), targets)
    assert outputs.pred_logits.dtype == torch.bfloat16
    losses = Criterion(LossConfig())(outputs, targets)
    assert all(value.dtype == torch.float32 and value.shape == () for value in losses.values())
    assert all(torch.isfinite(value) and value.requires_grad for value in losses.values())


# ---- weights and normalizers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["vfl", "bbox", "giou", "fgl", "ddf"])
def test_a_terms_weight_scales_that_term_only(term):
    usual, heavier = step(COUNTS).losses, step(COUNTS, **{term: 3 * getattr(LossConfig(), term)}).losses
    for name, value in usual.items():
        assert_close(heavier[name], 3 * value if name.startswith(f"loss_{term}") else value)


def test_terms_of_weight_zero_leave_the_others_alone():
    usual, fewer = step(COUNTS).losses, step(COUNTS, fgl=0.0, ddf=0.0).losses
    assert set(fewer) == {name for name in usual if "fgl" not in name and "ddf" not in name}
    assert all(torch.equal(fewer[name], usual[name]) for name in fewer)


def test_box_terms_are_means_over_the_union_set_and_scores_over_the_boxes():
    s = step(COUNTS)
    own, union, target_boxes, predictions = matched_by_layer(s)
    assert union.query.shape[1] > sum(COUNTS)  # the layers disagree: else the test shows nothing
    for prediction, suffix in zip(predictions, ("_aux_0", "_aux_1", "", "_pre", "_enc_0")):
        paired = prediction.boxes_cxcywh[union.image[0], union.query[0]]
        l1 = 5 * (paired - target_boxes[union.box[0]]).abs().sum() / union.query.shape[1]
        assert_close(s.losses[f"loss_bbox{suffix}"], l1)
    labels = torch.cat([t["labels"] for t in s.targets])
    for k, (prediction, suffix) in enumerate(zip(predictions, ("_aux_0", "_aux_1", "", "_pre", "_enc_0"))):
        p, total = prediction.logits.detach().sigmoid(), 0.0
        weight, soft = 0.75 * p**2, torch.zeros_like(p)
        for image, query, box in zip(own.image[k], own.query[k], own.box[k]):
            pair = box_cxcywh_to_xyxy(torch.stack([prediction.boxes_cxcywh[image, query].detach(), target_boxes[box]]))
            soft[image, query, labels[box]] = weight[image, query, labels[box]] = box_iou(pair[:1], pair[1:]).item()
        total = torch.nn.functional.binary_cross_entropy_with_logits(prediction.logits, soft, weight, reduction="sum")
        assert_close(s.losses[f"loss_vfl{suffix}"], total / sum(COUNTS))


def test_denoising_terms_are_means_over_boxes_and_groups():
    s = step(COUNTS)
    plan, target_boxes = s.outputs.denoising_plan, torch.cat([t["boxes"] for t in s.targets])
    assert plan.num_groups == 2
    for i, layer in enumerate(s.outputs.denoising.layers):
        distance = (layer.boxes_cxcywh[plan.image, plan.query] - target_boxes[plan.box]).abs().sum()
        assert_close(s.losses[f"loss_bbox_dn_{i}"], 5 * distance / (sum(COUNTS) * 2))


def test_the_normalizer_is_at_least_one():
    s = step([0, 0])
    prediction = s.outputs.decoder.layers[-1]
    p = prediction.logits.sigmoid()
    assert_close(s.losses["loss_vfl"], -(0.75 * p.detach() ** 2 * (1 - p).log()).sum())


def test_distillation_weights_follow_the_square_roots_of_the_numbers_of_queries():
    # Each layer's queries diverge by the same amount: what is left is the two weights, IoU and scores.
    s = step(COUNTS)
    union = matched_by_layer(s)[1]
    matched, everyone = union.query.shape[1], 2 * 12
    yes, no = (matched * 8 / 2) ** 0.5, ((everyone - matched) * 8 / 2) ** 0.5
    decoder = s.outputs.decoder
    target_boxes = torch.cat([t["boxes"] for t in s.targets])
    is_matched = torch.zeros(2, 12, dtype=torch.bool)
    is_matched[union.image[0], union.query[0]] = True
    teacher = (decoder.corner_logits[-1] / 5).log_softmax(-1)
    for i in range(2):
        student = (decoder.corner_logits[i] / 5).log_softmax(-1)
        divergence = 25 * (teacher.exp() * (teacher - student)).sum(-1).mean(-1)
        weight = decoder.logits[-1].sigmoid().amax(-1)
        pairs = [box_cxcywh_to_xyxy(b) for b in (decoder.boxes_cxcywh[i][is_matched], target_boxes[union.box[0]])]
        order = torch.argsort(union.image[0] * 12 + union.query[0])
        weight[is_matched] = box_iou(pairs[0], pairs[1][order]).diag()
        weighed = divergence * weight
        expected = (yes * weighed[is_matched].mean() + no * weighed[~is_matched].mean()) / (yes + no)
        assert_close(s.losses[f"loss_ddf_aux_{i}"], 1.5 * expected)


def test_micro_batches_with_the_normalizers_of_the_step_make_the_loss_of_all_images_at_once():
    """Boxes of the images: 3 and 1, then 5 and 0. Denoising draws its queries within a micro-batch: left out."""
    # Weights of another seed, with which the layers disagree: more matched queries than boxes.
    model, counts = filled(DFINE(replace(TINY, num_denoising=0)), seed=4).eval(), [3, 1, 5, 0]
    criterion = Criterion(LossConfig())
    images, targets = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), as_targets(counts, 5)
    outputs = [model(images[part], keep_layers=True) for part in (slice(4), slice(2), slice(2, 4))]
    parts = targets, targets[:2], targets[2:]
    whole = criterion(outputs[0], targets)
    own = [criterion.counts(output, part, 0) for output, part in zip(outputs, parts, strict=True)]
    assert own[0].boxes == own[1].boxes + own[2].boxes == 9
    assert own[0].pairs == own[1].pairs + own[2].pairs > 9
    assert own[0].pairs + own[0].unpaired == 4 * 12
    step = Normalizers.of_step(own[1:], torch.device("cpu"))
    assert (step.boxes.item(), step.pairs.item()) == (4.5, own[0].pairs / 2)
    found = [criterion(output, part, step) for output, part in zip(outputs[1:], parts[1:], strict=True)]
    for name, value in whole.items():
        assert_close((found[0][name] + found[1][name]) / 2, value, rtol=1e-4, atol=1e-6)
    alone = [criterion(output, part) for output, part in zip(outputs[1:], parts[1:], strict=True)]
    assert not torch.allclose((alone[0]["loss_vfl"] + alone[1]["loss_vfl"]) / 2, whole["loss_vfl"], rtol=1e-2)


def test_a_step_without_boxes_divides_the_scores_by_one_and_weights_unmatched_queries_alone():
    step = Normalizers.of_step([Normalizers(0, 0, 24, 0)] * 4, torch.device("cpu"))
    assert step.boxes.item() == 0.25  # the mean of four micro-batches, 1 in all
    assert_close(step.ddf_weights(), torch.tensor([0.0, 1.0]), rtol=0, atol=1e-9)


# ---- empty images ----------------------------------------------------------------------------------------------------


def gradients(s: SimpleNamespace) -> dict[str, Tensor]:
    sum(s.losses.values()).backward()
    return {name: p.grad for name, p in s.model.named_parameters() if p.grad is not None}


def test_an_ordinary_step_trains_every_parameter():
    s = step(COUNTS)
    untouched = {name for name, _ in s.model.named_parameters()} - set(gradients(s))
    assert untouched == {"decoder.up", "decoder.reg_scale"}  # constants, stored as parameters
    assert {name for name, p in s.model.named_parameters() if not p.requires_grad} == untouched


def test_a_batch_without_boxes_gives_finite_losses_and_touches_the_same_parameters():
    s = step([0, 0])
    assert all(torch.isfinite(value) for value in s.losses.values())
    assert {name for name in MATCHING_NAMES if s.losses[name] == 0} == {
        name for name in MATCHING_NAMES if name.split("_")[1] in ("bbox", "giou", "fgl")
    }
    got = gradients(s)
    assert set(got) == set(gradients(step(COUNTS)))
    assert all(torch.isfinite(gradient).all() for gradient in got.values())
    # There is a gradient of 0 for what only boxes teach.
    without = {name.removeprefix("decoder.").split(".")[0] for name, gradient in got.items() if not gradient.any()}
    assert {"pre_bbox_head", "enc_bbox_head", "denoising_class_embed"} <= without
    assert not without & {"dec_bbox_head", "enc_score_head", "dec_score_head", "query_pos_head"}


def test_an_image_without_boxes_beside_one_with_boxes_gives_finite_gradients():
    got = gradients(step([0, 4]))
    assert all(torch.isfinite(gradient).all() for gradient in got.values())


def test_more_boxes_than_queries_trains():
    got = gradients(step([20, 2]))
    assert all(torch.isfinite(gradient).all() for gradient in got.values())


# ---- whose gradient --------------------------------------------------------------------------------------------------


def test_the_last_layer_learns_nothing_from_distillation():
    s = step(COUNTS)
    corner_logits = s.outputs.decoder.corner_logits.detach().requires_grad_()
    decoder = replace(s.outputs.decoder, corner_logits=corner_logits)
    losses = Criterion(LossConfig())(replace(s.outputs, decoder=decoder), s.targets)
    sum(value for name, value in losses.items() if name.startswith("loss_ddf_aux")).backward()
    assert corner_logits.grad[:-1].any()
    assert not corner_logits.grad[-1].any()


def test_the_initial_box_gets_no_gradient_from_the_refinements_targets():
    s = step(COUNTS)
    fgl = sum(value for name, value in s.losses.items() if name.startswith("loss_fgl") and "dn" not in name)
    fgl.backward()
    assert all(p.grad is None or not p.grad.any() for p in s.model.decoder.pre_bbox_head.parameters())


def test_students_that_are_the_last_layer_have_no_distillation_loss():
    s = step(COUNTS)

    def same(output: DecoderOutput) -> DecoderOutput:
        return replace(output, corner_logits=output.corner_logits[-1:].expand_as(output.corner_logits))

    outputs = replace(s.outputs, decoder=same(s.outputs.decoder), denoising=same(s.outputs.denoising))
    losses = Criterion(LossConfig())(outputs, s.targets)
    ddf = torch.stack([value for name, value in losses.items() if name.startswith("loss_ddf")])
    assert_close(ddf, torch.zeros(4), rtol=0, atol=1e-5)  # float32 logarithms of equal numbers


# ---- the union set, and without it -----------------------------------------------------------------------------------


def test_without_the_union_set_every_layer_learns_from_its_own_pairs():
    s = step(COUNTS, union_set=False)
    own, _, target_boxes, predictions = matched_by_layer(s)
    assert set(s.losses) == MATCHING_NAMES | DENOISING_NAMES
    for k, (prediction, suffix) in enumerate(zip(predictions, ("_aux_0", "_aux_1", "", "_pre", "_enc_0"))):
        paired = prediction.boxes_cxcywh[own.image[k], own.query[k]]
        expected = 5 * (paired - target_boxes[own.box[k]]).abs().sum() / sum(COUNTS)
        assert_close(s.losses[f"loss_bbox{suffix}"], expected)
    got = gradients(s)
    assert all(torch.isfinite(gradient).all() for gradient in got.values())


def test_the_union_set_changes_neither_scores_nor_denoising():
    usual, without = step(COUNTS).losses, step(COUNTS, union_set=False).losses
    # Without it other queries are matched, so the two weights of DDF differ: DDF is left out.
    for name in usual:
        if name.startswith("loss_vfl") or ("_dn_" in name and "ddf" not in name):
            assert_close(without[name], usual[name])


# ---- the call --------------------------------------------------------------------------------------------------------


def test_calling_twice_gives_the_same_losses():
    s = step(COUNTS)
    again = Criterion(LossConfig())(s.outputs, s.targets)
    assert all(torch.equal(again[name], value) for name, value in s.losses.items())


def test_outputs_of_eval_mode_are_refused():
    model = tiny().eval()
    outputs: DFINEOutput = model(torch.rand(2, 3, 64, 64))
    with pytest.raises(ValueError, match="training mode"):
        Criterion(LossConfig())(outputs, as_targets(COUNTS, 5))


def test_a_recipe_or_its_name_makes_the_criterion():
    assert build_criterion("n_coco") == build_criterion(get_recipe("n_coco")) == Criterion(LossConfig())
