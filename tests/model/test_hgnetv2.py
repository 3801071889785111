from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from dfine_lib.model.hgnetv2 import (
    ARCHITECTURES,
    ConvBlock,
    HGBlock,
    HGNetV2,
    LearnableAffine,
    LightConvBlock,
    StageShape,
    Stem,
)
from dfine_lib.model.layers import FrozenBatchNorm2d


def number_of_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_a_block_counted_by_hand():
    assert number_of_parameters(ConvBlock(3, 8, 3)) == 3 * 8 * 9 + 2 * 8  # kernel, and scale and shift of the norm
    assert number_of_parameters(ConvBlock(3, 8, 3, use_lab=True)) == 3 * 8 * 9 + 2 * 8 + 2
    assert number_of_parameters(ConvBlock(8, 8, 5, groups=8)) == 8 * 25 + 2 * 8  # depthwise: one kernel a channel


def test_lab_stands_only_behind_an_activation():
    assert number_of_parameters(ConvBlock(3, 8, 3, activate=False, use_lab=True)) == 3 * 8 * 9 + 2 * 8


def test_parameters_of_a_light_block_counted_by_hand():
    mix, look = 6 * 10 + 2 * 10, 10 * 25 + 2 * 10
    assert number_of_parameters(LightConvBlock(6, 10, 5, use_lab=False)) == mix + look
    assert number_of_parameters(LightConvBlock(6, 10, 5, use_lab=True)) == mix + look + 2


def test_lab_scales_and_shifts_the_whole_map_after_the_relu():
    block = ConvBlock(1, 1, 1, use_lab=True).eval()
    nn.init.constant_(block.conv.weight, 1.0)
    nn.init.constant_(block.lab.scale, 2.0)
    nn.init.constant_(block.lab.bias, 3.0)
    x = torch.tensor([[[[-5.0, 4.0]]]])
    assert_close(block(x), torch.tensor([[[[3.0, 11.0]]]]), rtol=1e-4, atol=0)  # the norm's eps of 1e-5


@pytest.mark.parametrize("name", ["B0", "B1", "B2", "B3", "B4", "B5", "B6"])
def test_maps_have_the_published_channels_at_strides_4_to_32(name):
    with torch.device("meta"):
        backbone = HGNetV2(name, num_maps=4).eval()
        maps = backbone(torch.empty(2, 3, 64, 160))
    channels = [stage.out_channels for stage in ARCHITECTURES[name].stages]
    assert [list(x.shape) for x in maps] == [
        [2, c, 64 // stride, 160 // stride] for c, stride in zip(channels, (4, 8, 16, 32))
    ]
    assert backbone.out_channels == channels


@pytest.mark.parametrize(("num_maps", "channels"), [(1, [256]), (2, [192, 256]), (3, [96, 192, 256])])
def test_the_last_stages_are_given_back_fine_to_coarse(num_maps, channels):
    backbone = HGNetV2("pico", num_maps).eval()
    assert [x.shape[1] for x in backbone(torch.zeros(1, 3, 32, 32))] == backbone.out_channels == channels


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"B0, .*B6, got 'B9'"):
        HGNetV2("B9")


@pytest.mark.parametrize("first", [True, False])
def test_the_input_is_added_from_the_second_block_of_a_stage_on(first):
    block = HGBlock(StageShape(8, 4, 8, 2, False, False, 3, 3), first, use_lab=False).eval()
    nn.init.zeros_(block.aggregation[-1].conv.weight)
    x = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    assert_close(block(x), torch.zeros_like(x) if first else x)


def test_a_block_squeezes_its_input_and_every_layers_output():
    block = HGBlock(StageShape(8, 4, 16, 1, False, True, 5, 3), first=True, use_lab=False)
    seen = {}
    block.aggregation.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    block.eval()(torch.randn(1, 8, 6, 6))
    assert seen["x"].shape[1] == 8 + 3 * 4
    assert block.aggregation[0].conv.out_channels == 8  # half of what goes out


# ---- stem ------------------------------------------------------------------------------------------------------------


def test_the_stems_pooling_is_a_max_pool_of_the_padded_map_gradient_included():
    stem = Stem(3, 4, 6, use_lab=False).double().eval()
    stem.stem1 = nn.Identity()
    seen = {}
    stem.stem3.register_forward_pre_hook(lambda _, args: seen.update(pooled=args[0][:, :4]))
    # Random numbers, so no two are equal: at ties the two ways share a gradient out differently.
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    stem(ours)
    expected = F.max_pool2d(F.pad(theirs, (0, 1, 0, 1)), 2, stride=1)
    assert_close(seen["pooled"], expected, rtol=0, atol=0)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen["pooled"].backward(upstream)
    expected.backward(upstream)
    assert_close(ours.grad, theirs.grad)


def test_the_stems_branches_look_right_and_down():
    stem = Stem(3, 2, 2, use_lab=False).eval()
    stem.stem1 = nn.Identity()
    for block in (stem.stem2a, stem.stem2b):
        nn.init.constant_(block.conv.weight, 1.0)
    seen = {}
    stem.stem3.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    x = torch.zeros(1, 2, 5, 5)
    x[..., 2, 2] = 1.0
    stem(x)
    pooled, convolved = seen["x"][0, 0] > 0, seen["x"][0, 2] > 0
    assert pooled.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert convolved.nonzero().tolist() == [[y, x] for y in range(3) for x in range(3)]


# ---- what is frozen --------------------------------------------------------------------------------------------------


def test_frozen_norms_are_buffers_that_no_step_moves():
    backbone = HGNetV2("pico", freeze_norm=True, freeze_stem=True).train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    norms = {name for name, m in backbone.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    parameters = {name.rpartition(".")[0] for name, _ in backbone.named_parameters()}
    assert norms
    assert not norms & parameters
    assert {f"{name}.weight" for name in norms} <= {name for name, _ in backbone.named_buffers()}

    before = {name: value.clone() for name, value in backbone.named_buffers()}
    sum(x.sum() for x in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())


def test_a_frozen_stem_gets_no_gradient_and_all_else_does():
    backbone = HGNetV2("pico", freeze_norm=True, freeze_stem=True).train()
    sum(x.sum() for x in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert {name: p.grad is None for name, p in backbone.named_parameters()} == {
        name: name.startswith("stem.") for name, _ in backbone.named_parameters()
    }


def test_nothing_is_frozen_unless_asked():
    backbone = HGNetV2("pico")
    assert all(p.requires_grad for p in backbone.parameters())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules())


def test_the_affine_block_keeps_the_type_of_a_map_under_autocast():
    """In float32 the map would be kept so for the backward pass: twice the memory."""
    block = LearnableAffine()
    with torch.autocast("cpu", torch.bfloat16):
        assert block(torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert block(torch.ones(1, 2, 3, 3)).dtype == torch.float32
