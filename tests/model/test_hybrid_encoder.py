from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from published import filled
from torch import Tensor
from torch.testing import assert_close

from dfine_lib.config import SIZES
from dfine_lib.model.hybrid_encoder import Bottleneck, FusionBlock, HybridEncoder, position_embedding

CONFIG = replace(SIZES["pico"], encoder_dim=32, hidden_dim=32, encoder_feedforward=64)
CHANNELS = [6, 10, 14]


def one_cell(x: int, y: int, dim: int) -> list[float]:
    """One number at a time: sin(y), cos(y), sin(x), cos(x), each over D / 4 frequencies."""
    omega = [10000.0 ** (-k / (dim // 4)) for k in range(dim // 4)]
    return (
        [math.sin(y * w) for w in omega]
        + [math.cos(y * w) for w in omega]
        + [math.sin(x * w) for w in omega]
        + [math.cos(x * w) for w in omega]
    )


def encoder(seed: int = 1, **changes: object) -> HybridEncoder:
    return filled(HybridEncoder(replace(CONFIG, **changes), CHANNELS), seed).eval()


def maps(height: int, width: int, batch: int = 2, seed: int = 0) -> list[Tensor]:
    """Backbone maps, the coarsest of that size."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channels, height * k, width * k, generator=generator)
        for channels, k in zip(CHANNELS, (4, 2, 1))
    ]


# ---- position --------------------------------------------------------------------------------------------------------


def test_the_position_of_a_cell_worked_out_by_hand():
    # D = 8: frequencies 1 and 1 / 100. The second token of the first row is x = 1, y = 0.
    second = position_embedding(2, 2, 8)[0, 1]
    expected = [0, 0, 1, 1, math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    assert_close(second, torch.tensor(expected))


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 5), (5, 2), (1, 4), (4, 1), (1, 1), (20, 20)])
def test_every_token_has_the_position_of_its_own_cell(height, width):
    expected = [one_cell(x, y, 16) for y in range(height) for x in range(width)]  # tokens row by row
    # 2e-6: frequencies are float32, and a phase of 20 has lost that much.
    assert_close(position_embedding(height, width, 16), torch.tensor([expected]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("side", [1, 2, 5, 20])
def test_published_positions_are_the_same_on_square_maps(side):
    assert_close(position_embedding(side, side, 32, published=True), position_embedding(side, side, 32), rtol=0, atol=0)


@pytest.mark.parametrize(("height", "width"), [(2, 5), (5, 2), (3, 4)])
def test_published_positions_pair_tokens_with_wrong_cells_on_other_maps(height, width):
    published = position_embedding(height, width, 16, published=True)
    # Their table has x as the slow axis and starts with sin(x); token i takes its row i.
    expected = [one_cell(x=y, y=x, dim=16) for x in range(width) for y in range(height)]
    assert_close(published, torch.tensor([expected]), rtol=0, atol=2e-6)
    assert (published - position_embedding(height, width, 16)).abs().max() > 0.1


def test_published_positions_are_a_switch_of_the_model():
    ours, theirs = encoder(), encoder(published_positions=True)
    for a, b in zip(ours(maps(3, 3)), theirs(maps(3, 3))):
        assert_close(a, b, rtol=0, atol=0)
    for a, b in zip(ours(maps(2, 4)), theirs(maps(2, 4))):
        assert (a - b).abs().max() > 1e-3


# ---- which map goes where --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(2, 2), (1, 3), (5, 2)])
def test_maps_keep_their_sizes_and_get_the_encoders_width(height, width):
    out = encoder()(maps(height, width))
    assert [tuple(x.shape) for x in out] == [(2, 32, height * k, width * k) for k in (4, 2, 1)]


@pytest.mark.parametrize("levels", [1, 2])
def test_fewer_levels_work(levels):
    strides = (8, 16, 32)[-levels:]
    config = replace(CONFIG, feat_strides=strides, points_per_level=(3, 6, 3)[-levels:])
    out = HybridEncoder(config, CHANNELS[-levels:]).eval()(maps(2, 2)[-levels:])
    assert [tuple(x.shape) for x in out] == [(2, 32, 64 // s, 64 // s) for s in strides]


def test_attention_sees_the_tokens_of_the_coarsest_map_only():
    module, seen = encoder(), {}
    module.encoder[0].register_forward_pre_hook(lambda _, args: seen.update(tokens=args[0], position=args[1]))
    inputs = maps(2, 3)
    module(inputs)
    assert_close(seen["tokens"], module.input_proj[-1](inputs[-1]).flatten(2).transpose(1, 2))
    assert_close(seen["position"], position_embedding(2, 3, 32))


def test_what_a_lateral_convolution_makes_replaces_the_map_on_the_way_up():
    module, lateral, upwards = encoder(), {}, {}
    for i in range(2):
        module.lateral_convs[i].register_forward_hook(lambda _, args, out, i=i: lateral.update({i: out}))
        module.pan_blocks[i].register_forward_pre_hook(lambda _, args, i=i: upwards.update({i: args[0]}))
    module(maps(2, 3))
    # Lateral 0 acts on the coarsest map, block 0 of the way up starts at the finest: they meet in reverse order.
    for i in range(2):
        assert_close(upwards[1 - i][:, 32:], lateral[i], rtol=0, atol=0)


def test_a_coarser_map_is_upsampled_to_its_nearest_cells_and_stands_first():
    module, lateral, downwards = encoder(), {}, {}
    module.lateral_convs[0].register_forward_hook(lambda _, args, out: lateral.update(out=out))
    module.fpn_blocks[0].register_forward_pre_hook(lambda _, args: downwards.update(x=args[0]))
    inputs = maps(2, 3)
    module(inputs)
    repeated = lateral["out"].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert_close(downwards["x"][:, :32], repeated, rtol=0, atol=0)
    assert_close(downwards["x"][:, 32:], module.input_proj[1](inputs[1]))


def test_images_of_a_batch_do_not_mix():
    module, inputs = encoder().double(), [x.double() for x in maps(2, 3, batch=3)]
    together = module(inputs)
    for i in range(3):
        for a, b in zip(together, module([x[i : i + 1] for x in inputs])):
            assert_close(a[i : i + 1], b)


# ---- fusion block ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "expansion", "depth_mult", "width", "bottlenecks"),
    # Python's round: 0.34 * 128 // 2 = 21, 3 * 0.5 = 1.5 -> 2; 3 * 0.34 -> 1; 3 * 0.67 -> 2.
    [(128, 0.34, 0.5, 21, 2), (256, 0.5, 0.34, 64, 1), (256, 1.0, 0.67, 128, 2), (384, 1.0, 1.0, 192, 3)],
)
def test_width_and_depth_are_rounded_as_published(dim, expansion, depth_mult, width, bottlenecks):
    with torch.device("meta"):
        block = FusionBlock(dim, expansion, depth_mult)
    assert block.cv2[0].conv1.conv.out_channels == width
    assert len(block.cv2[0].bottlenecks) == len(block.cv3[0].bottlenecks) == bottlenecks
    assert block.cv4.conv.in_channels == 2 * dim + 2 * width


def test_a_bottleneck_adds_its_two_convolutions_before_the_activation():
    block = filled(Bottleneck(3)).eval()
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    total = block.conv1.norm(block.conv1.conv(x)) + block.conv2.norm(block.conv2.conv(x))
    assert_close(block(x), total * total.sigmoid())
