from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from published import as_targets, filled
from torch import Tensor, nn
from torch.testing import assert_close

from dfine_lib.boxes import inverse_sigmoid
from dfine_lib.config import SIZES
from dfine_lib.model.decoder import (
    DecoderLayer,
    DFINEDecoder,
    LocationQualityEstimator,
    TargetGatingLayer,
    make_anchors,
)
from dfine_lib.model.deformable_attention import split_heads
from dfine_lib.model.distribution import decode_boxes, expected_offsets, weighting_function

CONFIG = replace(
    SIZES["pico"], encoder_dim=32, hidden_dim=32, feedforward=64, num_queries=12, num_classes=5, num_denoising=6
)


def decoder(seed: int = 1, **changes: object) -> DFINEDecoder:
    """A small decoder with weights that do something, in training mode."""
    module = DFINEDecoder(replace(CONFIG, **changes))
    up, reg_scale = module.up.clone(), module.reg_scale.clone()
    filled(module, seed)
    assert torch.equal(module.up, up)
    assert torch.equal(module.reg_scale, reg_scale)
    return module


def maps(height: int = 2, width: int = 3, batch: int = 2, seed: int = 0) -> list[Tensor]:
    """Encoder maps at strides 8, 16, 32, the coarsest of that size."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 32, height * k, width * k, generator=generator) for k in (4, 2, 1)]


def watch(module: nn.Module) -> list[tuple]:
    """The arguments of every later call of the module."""
    calls: list[tuple] = []
    module.register_forward_pre_hook(lambda _, args: calls.append(args))
    return calls


def has_gradient(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


# ---- small parts, by hand --------------------------------------------------------------------------------------------


def test_the_gate_weighs_query_and_attended_worked_out_by_hand():
    gate = TargetGatingLayer(2)
    query, attended = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, -5.0]])
    unit = torch.tensor([[-1.0, 1.0]])  # any two numbers, falling or rising, after a layer norm
    assert_close(gate(query, attended), -unit, rtol=1e-4, atol=0)  # half of each: 2, 0
    with torch.no_grad():
        gate.gate.bias.copy_(torch.tensor([50.0, 50.0, -50.0, -50.0]))  # the first D outputs are the query's
    assert_close(gate(query, attended), unit, rtol=1e-4, atol=0)
    with torch.no_grad():
        gate.gate.bias.neg_()
    assert_close(gate(query, attended), -unit, rtol=1e-4, atol=0)


def test_the_quality_head_adds_one_number_to_all_classes_worked_out_by_hand():
    head = LocationQualityEstimator()
    for layer, weight in zip(head.reg_conf.layers, (1.0, 1 / 64)):
        nn.init.constant_(layer.weight, weight)
        nn.init.zeros_(layer.bias)
    # Left is sure of bin 0: peaks 1, 0, 0, 0, mean 0.25. The others know nothing: four peaks of 0.2, mean 0.2.
    corner_logits = torch.zeros(1, 1, 4, 5)
    corner_logits[0, 0, 0, 0] = 100.0
    logits = torch.tensor([[[1.0, -2.0, 0.0]]])
    assert_close(head(logits, corner_logits), logits + 1.25 + 3 * 5 * 0.2)


def test_the_quality_head_sees_peaks_edge_by_edge_falling():
    head, seen = LocationQualityEstimator(), []
    head.reg_conf.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    p = torch.tensor([[0.1, 0.4, 0.3, 0.15, 0.05], [0.2] * 5, [0.6, 0.1, 0.1, 0.1, 0.1], [0.05, 0.15, 0.2, 0.2, 0.4]])
    head(torch.zeros(1, 1, 3), p.log()[None, None])
    rows = [[0.4, 0.3, 0.15, 0.1], [0.2] * 4, [0.6, 0.1, 0.1, 0.1], [0.4, 0.2, 0.2, 0.15]]
    assert_close(seen[0].flatten(), torch.tensor([x for row in rows for x in (*row, sum(row) / 4)]))


def test_a_fresh_quality_head_changes_nothing():
    logits = torch.randn(1, 2, 3)
    assert torch.equal(LocationQualityEstimator()(logits, torch.randn(1, 2, 4, 33)), logits)


def test_anchors_worked_out_by_hand():
    logits, valid = make_anchors([(1, 2), (1, 1)])
    boxes = [[0.25, 0.5, 0.05, 0.05], [0.75, 0.5, 0.05, 0.05], [0.5, 0.5, 0.1, 0.1]]
    assert_close(logits, torch.tensor([boxes]).logit())
    assert valid.all()
    assert valid.shape == (1, 3, 1)


def test_anchors_run_row_by_row_and_level_by_level():
    logits, _ = make_anchors([(3, 5), (2, 4)])
    boxes = logits[0].sigmoid()
    assert_close(boxes[1 * 5 + 3], torch.tensor([3.5 / 5, 1.5 / 3, 0.05, 0.05]))
    assert_close(boxes[15 + 1 * 4 + 2], torch.tensor([2.5 / 4, 1.5 / 2, 0.1, 0.1]))


def test_anchors_within_a_hundredth_of_the_border_are_invalid():
    logits, valid = make_anchors([(1, 64)])  # centres at 1/128, 3/128, ...
    assert valid.flatten().tolist() == [False] + [True] * 62 + [False]
    assert logits[0, 0].tolist() == [torch.inf] * 4
    _, valid = make_anchors([(1, 1)] * 6)  # sides 0.05, 0.1, ... 1.6
    assert valid.flatten().tolist() == [True] * 5 + [False]


# ---- one layer -------------------------------------------------------------------------------------------------------


def layer_inputs() -> tuple[DecoderLayer, Tensor, Tensor, Tensor, list[Tensor]]:
    """A layer with weights that do something, features, position, reference boxes, and the image's maps."""
    generator = torch.Generator().manual_seed(0)
    x, position = torch.randn(2, 2, 5, 32, generator=generator)
    boxes = torch.rand(2, 5, 4, generator=generator)
    maps = [torch.randn(2, 32, h, w, generator=generator) for h, w in ((4, 6), (2, 3), (1, 2))]
    return filled(DecoderLayer(CONFIG)), x, position, boxes, split_heads(maps, CONFIG.num_heads)


def test_a_layer_is_self_attention_cross_attention_gate_and_feed_forward():
    layer, x, position, boxes, levels = layer_inputs()
    got = layer(x, position, boxes, levels, None)
    x = layer.norm1(x + layer.self_attn(x, position))
    attended = layer.cross_attn(x + position, boxes, levels)  # position says where to look
    gates = layer.gateway.gate(torch.cat([x, attended], dim=-1)).sigmoid()  # and is not part of what is kept
    x = layer.gateway.norm(gates[..., :32] * x + gates[..., 32:] * attended)
    assert_close(got, layer.norm3(x + layer.linear2(layer.linear1(x).clamp(min=0))))


def test_features_stay_within_the_range_of_float16():
    layer, *inputs = layer_inputs()
    layer.linear2.bias.data.fill_(1e6)
    seen = watch(layer.norm3)
    layer(*inputs, None)
    assert seen[0][0].unique().tolist() == [65504.0]


# ---- which tokens become queries -------------------------------------------------------------------------------------


def test_queries_are_the_tokens_with_the_best_class_logit():
    module = decoder().eval()
    features = maps()
    encoder = module(features, keep_layers=True).encoder
    memory = torch.cat([x.flatten(2).transpose(1, 2) for x in features], dim=1)
    scores = module.enc_score_head(module.enc_output(memory)).amax(-1)
    assert_close(encoder.logits.amax(-1), scores.topk(12, dim=1).values)


def test_the_first_reference_is_a_move_from_the_tokens_anchor():
    module = decoder(num_queries=126).eval()  # all tokens
    nn.init.zeros_(module.enc_bbox_head.layers[-1].weight)
    module.enc_bbox_head.layers[-1].bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, -1.0]))
    boxes = module(maps(), keep_layers=True).encoder.boxes_cxcywh[0]
    expected = (make_anchors([(8, 12), (4, 6), (2, 3)])[0][0] + torch.tensor([1.0, 0.0, 0.0, -1.0])).sigmoid()

    def ordered(x: Tensor) -> list:
        return sorted([round(v, 5) for v in row] for row in x.tolist())

    assert ordered(boxes) == ordered(expected)


def test_tokens_of_invalid_anchors_are_blank_for_selection_and_whole_for_attention():
    module = decoder().eval()
    features = maps(height=1, width=16, batch=1)  # the finest level has 64 columns: its first and last are invalid
    selection, attention = watch(module.enc_output), watch(module.decoder.layers[0].cross_attn)
    module(features)
    blank = (selection[0][0] == 0).all(-1)[0]
    assert blank.nonzero().flatten().tolist() == [row * 64 + column for row in range(4) for column in (0, 63)]
    finest = attention[0][2][0]  # [B * heads, D / heads, h, w]
    assert_close(finest.reshape(features[0].shape), features[0], rtol=0, atol=0)


def test_an_invalid_anchor_that_is_chosen_gives_finite_answers_and_gradients():
    module = decoder(num_queries=400)
    output = module(maps(height=1, width=16), as_targets([2, 1], 5))
    assert output.pred_boxes.shape[1] == 4 * 64 + 2 * 32 + 16  # all tokens
    (output.decoder.boxes_cxcywh.sum() + output.encoder.boxes_cxcywh.sum() + output.pred_logits.sum()).backward()
    assert torch.isfinite(output.pred_boxes).all()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


# ---- what stands still -----------------------------------------------------------------------------------------------


def test_the_position_of_a_query_stays_within_ten():
    module, calls = decoder().eval(), []
    layer = module.decoder.layers[1]
    layer.register_forward_pre_hook(lambda _, args: calls.append(args[1]))
    last = module.query_pos_head.layers[-1]
    nn.init.zeros_(last.weight)
    last.bias.data.copy_(torch.linspace(-25, 25, 32))
    module(maps())
    assert_close(calls[0], torch.linspace(-25, 25, 32).clamp(-10, 10).expand(2, 12, 32), rtol=0, atol=0)


def test_content_and_references_enter_the_layers_without_gradient():
    module = decoder()
    calls = [watch(layer) for layer in module.decoder.layers]
    module(maps())
    arrivals = [(x.requires_grad, position.requires_grad, box.requires_grad) for ((x, position, box, *_),) in calls]
    # What one layer makes of a query goes on to the next with its gradient; the head that makes positions is trained.
    assert arrivals == [(False, True, False), (True, True, False), (True, True, False)]


def test_selected_content_carries_no_gradient():
    module = decoder()
    output = module(maps())
    output.pred_logits.sum().backward()
    assert not has_gradient(module.enc_output)
    assert not has_gradient(module.enc_bbox_head)
    assert has_gradient(module.query_pos_head)


def test_the_initial_box_that_all_layers_refine_is_detached():
    module = decoder()
    module(maps()).decoder.boxes_cxcywh.sum().backward()
    assert not has_gradient(module.pre_bbox_head)
    module(maps()).decoder.initial.boxes_cxcywh.sum().backward()
    assert has_gradient(module.pre_bbox_head)


def test_the_next_layers_reference_is_the_box_of_the_last():
    module = decoder()
    calls = [watch(layer) for layer in module.decoder.layers]
    output = module(maps())
    assert_close(calls[0][0][2], output.encoder.boxes_cxcywh)
    for i in (1, 2):
        assert torch.equal(calls[i][0][2], output.decoder.boxes_cxcywh[i - 1])


def test_the_features_of_the_layer_before_enter_a_box_head_without_gradient():
    module = decoder()

    class Deaf(nn.Module):
        def forward(self, x: Tensor, *_: object) -> Tensor:
            return torch.zeros_like(x)

    module.decoder.layers[1] = Deaf()  # what layer 0 made now reaches head 1 only through "previous"
    seen = watch(module.dec_bbox_head[1])
    output = module(maps())
    assert seen[0][0].abs().sum() > 0
    assert not seen[0][0].requires_grad
    (output.decoder.corner_logits[1] - output.decoder.corner_logits[0].detach()).sum().backward()
    assert has_gradient(module.dec_bbox_head[1])


# ---- refinement ------------------------------------------------------------------------------------------------------


def test_a_head_that_says_nothing_leaves_the_distributions_of_the_layer_before():
    module = decoder()
    for head in module.dec_bbox_head[1:]:
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
    output = module(maps()).decoder
    for i in (1, 2):
        assert torch.equal(output.corner_logits[i], output.corner_logits[0])
        assert torch.equal(output.boxes_cxcywh[i], output.boxes_cxcywh[0])


def test_corner_logits_add_up_with_their_gradient():
    module, said = decoder(), []
    for head in module.dec_bbox_head:
        head.register_forward_hook(lambda _, args, out: said.append(out))
    corner_logits = module(maps()).decoder.corner_logits
    assert_close(corner_logits, torch.stack(said).cumsum(0).unflatten(-1, (4, 33)))
    corner_logits[-1].sum().backward()
    assert all(has_gradient(head) for head in module.dec_bbox_head)


def test_boxes_are_the_initial_boxes_moved_by_mean_offsets():
    module = decoder(reg_scale=8.0)
    output = module(maps())
    offsets = expected_offsets(output.decoder.corner_logits, weighting_function(32, 0.5, 8.0))
    assert_close(output.decoder.boxes_cxcywh, decode_boxes(output.decoder.initial.boxes_cxcywh, offsets))


def test_the_first_guess_is_a_move_from_the_reference():
    module, features = decoder(), []
    module.decoder.layers[0].register_forward_hook(lambda _, args, out: features.append(out))
    output = module(maps())
    moved = module.pre_bbox_head(features[0]) + inverse_sigmoid(output.encoder.boxes_cxcywh)
    assert_close(output.decoder.initial.boxes_cxcywh, moved.sigmoid())
    assert_close(output.decoder.initial.logits, module.dec_score_head[0](features[0]))


def test_the_quality_head_changes_the_logits_of_all_layers_but_not_of_the_first_guess():
    module = decoder()
    before = module(maps()).decoder
    for head in module.decoder.lqe_layers:
        head.reg_conf.layers[-1].bias.data.add_(3.0)
    after = module(maps()).decoder
    assert_close(after.logits, before.logits + 3.0)
    assert torch.equal(after.initial.logits, before.initial.logits)
    assert torch.equal(after.boxes_cxcywh, before.boxes_cxcywh)


def test_class_losses_reach_the_distributions_through_the_quality_head():
    module = decoder()
    module(maps()).pred_logits.sum().backward()
    assert all(has_gradient(head) for head in module.dec_bbox_head)


# ---- ablations: one change at a time ---------------------------------------------------------------------------------


def test_uniform_bins_change_the_boxes_and_nothing_else_that_is_stored():
    usual, uniform = decoder(), decoder(uniform_bins=True)
    assert_close(uniform.bin_offsets, weighting_function(32, uniform=True), rtol=0, atol=0)
    assert usual.state_dict().keys() == uniform.state_dict().keys()
    a, b = usual(maps()), uniform(maps())
    assert torch.equal(a.decoder.initial.boxes_cxcywh, b.decoder.initial.boxes_cxcywh)
    assert torch.equal(a.decoder.corner_logits[0], b.decoder.corner_logits[0])  # the first that no bin came before
    assert not torch.allclose(a.decoder.boxes_cxcywh[0], b.decoder.boxes_cxcywh[0], atol=1e-3)
    uniform.load_state_dict(usual.state_dict())  # sets the bins anew
    assert_close(uniform.bin_offsets, weighting_function(32, uniform=True), rtol=0, atol=0)


def test_without_the_quality_head_class_logits_are_those_of_the_class_head_and_boxes_stay():
    usual, plain = decoder(), decoder(quality_head=False)
    gone = usual.state_dict().keys() - plain.state_dict().keys()
    assert gone and all(key.startswith("decoder.lqe_layers.") for key in gone)
    assert not plain.state_dict().keys() - usual.state_dict().keys()
    plain.load_state_dict(usual.state_dict(), strict=False)
    for head in usual.decoder.lqe_layers:  # a quality head that adds nothing
        head.reg_conf.layers[-1].weight.data.zero_()
        head.reg_conf.layers[-1].bias.data.zero_()
    a, b = usual(maps()), plain(maps())
    assert_close(b.decoder.logits, a.decoder.logits)
    assert_close(b.decoder.boxes_cxcywh, a.decoder.boxes_cxcywh)
    b.pred_logits.sum().backward()
    assert not any(has_gradient(head) for head in plain.dec_bbox_head)  # class losses teach no distribution


# ---- denoising beside matching ---------------------------------------------------------------------------------------


def test_matching_queries_answer_the_same_with_and_without_denoising():
    module = decoder()
    alone, beside = module(maps()), module(maps(), as_targets([2, 3], 5))
    assert alone.denoising is None
    assert beside.denoising_plan.num_queries == 12  # two groups of three positives and three negatives
    assert beside.denoising.logits.shape == (3, 2, 12, 5)
    assert beside.denoising.corner_logits.shape == (3, 2, 12, 4, 33)
    assert_close(beside.decoder.logits, alone.decoder.logits)
    assert_close(beside.decoder.boxes_cxcywh, alone.decoder.boxes_cxcywh)
    assert_close(beside.decoder.initial.boxes_cxcywh, alone.decoder.initial.boxes_cxcywh)


def test_targets_are_ignored_in_eval_mode():
    output = decoder().eval()(maps(), as_targets([2, 3], 5))
    assert output.denoising is None
    assert output.denoising_plan is None


def test_padding_is_used_but_never_trained():
    module = decoder()
    before = module(maps(), as_targets([3, 0], 5))
    before.denoising.logits.sum().backward()
    gradient = module.denoising_class_embed.weight.grad
    assert gradient[:-1].any()
    assert not gradient[-1].any()
    module.denoising_class_embed.weight.data[-1] += 1.0
    torch.manual_seed(0)
    a = module(maps(), as_targets([3, 0], 5))
    module.denoising_class_embed.weight.data[-1] += 1.0
    torch.manual_seed(0)
    b = module(maps(), as_targets([3, 0], 5))
    assert (a.denoising.logits[:, 1] - b.denoising.logits[:, 1]).abs().max() > 1e-4


def test_a_batch_without_boxes_touches_the_same_parameters():
    # Processes that train together wait for each other's gradients: none may have parameters left out.
    touched = []
    for counts in ([2, 3], [0, 0]):
        module = decoder()
        output = module(maps(), as_targets(counts, 5))
        answers = [output.decoder, output.denoising] if output.denoising else [output.decoder]
        total = sum(a.logits.sum() + a.boxes_cxcywh.sum() + a.initial.boxes_cxcywh.sum() for a in answers)
        (total + output.encoder.logits.sum() + output.encoder.boxes_cxcywh.sum()).backward()
        touched.append({name for name, p in module.named_parameters() if p.grad is not None})
    assert touched[0] == touched[1]


# ---- state -----------------------------------------------------------------------------------------------------------


def test_stored_up_and_reg_scale_set_the_bins():
    module = decoder()
    state = module.state_dict()
    for prefix in ("", "decoder."):
        state[f"{prefix}up"], state[f"{prefix}reg_scale"] = torch.tensor([0.25]), torch.tensor([-8.0])
    module.load_state_dict(state)
    assert_close(module.bin_offsets, weighting_function(32, 0.25, 8.0), rtol=0, atol=0)


def test_derived_entries_of_published_files_are_dropped_and_others_refused():
    module = decoder()
    state = {**module.state_dict(), "anchors": torch.zeros(1, 8400, 4), "valid_mask": torch.ones(1, 8400, 1)}
    module.load_state_dict(state)
    assert "anchors" in state  # the caller's dict is left alone
    with pytest.raises(RuntimeError, match="surplus"):
        module.load_state_dict({**module.state_dict(), "surplus": torch.zeros(1)})


def test_what_is_derived_is_not_stored():
    assert not {"anchors", "valid_mask", "bin_offsets"} & set(decoder().state_dict())


def test_up_and_reg_scale_are_one_parameter_each_shared_and_not_trained():
    module = decoder()
    assert module.decoder.up is module.up
    assert module.decoder.reg_scale is module.reg_scale
    assert not module.up.requires_grad
    assert not module.reg_scale.requires_grad
    assert {"up", "reg_scale", "decoder.up", "decoder.reg_scale"} <= set(module.state_dict())


def test_a_decoder_of_one_layer_works():
    output = decoder(num_decoder_layers=1)(maps(), as_targets([2, 3], 5))
    assert len(output.layers) == 1
    assert output.pred_logits.shape == (2, 12, 5)


def test_other_widths_are_brought_to_the_decoders_own():
    module = decoder(hidden_dim=16)
    assert module(maps()).pred_logits.shape == (2, 12, 5)
    assert [sum(p.numel() for p in project.parameters()) for project in module.input_proj] == [32 * 16 + 32] * 3
