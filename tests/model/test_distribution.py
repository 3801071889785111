from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.model.distribution import decode_boxes, encode_edges, expected_offsets, weighting_function


def random_boxes(number: int, seed: int = 0) -> Tensor:
    """cxcywh `[number, 4]` inside the image."""
    generator = torch.Generator().manual_seed(seed)
    size = 0.05 + 0.4 * torch.rand(number, 2, generator=generator)
    return torch.cat([size / 2 + torch.rand(number, 2, generator=generator) * (1 - size), size], dim=1)


def two_bin_logits(left: Tensor, weight_right: Tensor, bins: int) -> Tensor:
    """Corner logits `[..., 4, bins]` of the distributions that `encode_edges` describes."""
    p = torch.zeros(*left.shape, bins)
    p.scatter_(-1, left[..., None], (1 - weight_right)[..., None])
    p.scatter_(-1, left[..., None] + 1, weight_right[..., None])
    return p.log()


# ---- W(n) ------------------------------------------------------------------------------------------------------------


def test_bin_offsets_worked_out_by_hand():
    w = weighting_function(reg_max=4, up=0.5, reg_scale=4.0)
    assert_close(w, torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))


def test_bin_offsets_of_another_up_and_scale_worked_out_by_hand():
    # a / c = 0.375 * 8 = 3, step = (3 + 1) ** (2 / 4) = 2: c (2^i - 1), the ends at twice a.
    eighths = [-6, -3, -1, 0, 1, 3, 6]
    assert weighting_function(reg_max=6, up=0.375, reg_scale=8.0).tolist() == [n / 8 for n in eighths]


@pytest.mark.parametrize("reg_max", [4, 6, 16, 32, 64])
@pytest.mark.parametrize("up", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("reg_scale", [1.0, 4.0, 8.0])
def test_bins_are_increasing_and_odd_about_the_middle(reg_max, up, reg_scale):
    w = weighting_function(reg_max, up, reg_scale)
    assert w.shape == (reg_max + 1,)
    assert w.dtype == torch.float32
    assert (w.diff() > 0).all()
    assert_close(w, -w.flip(0), rtol=0, atol=0)


@pytest.mark.parametrize(("up", "reg_scale"), [(0.5, 4.0), (0.5, 8.0), (0.25, 4.0)])
def test_the_last_bins_are_up_and_twice_up_of_the_side(up, reg_scale):
    w = weighting_function(32, up, reg_scale)
    assert_close(w[-2:], torch.tensor([up, 2 * up]))


def test_bins_lie_closer_the_nearer_they_are_to_the_edge():
    steps = weighting_function(32)[16:].diff()
    assert (steps.diff() > 0).all()


@pytest.mark.parametrize("reg_max", [4, 16, 32])
@pytest.mark.parametrize(("up", "reg_scale"), [(0.5, 4.0), (0.5, 8.0), (0.3, 4.0)])
def test_uniform_bins_are_equal_steps_between_the_same_ends(reg_max, up, reg_scale):
    curve, line = (weighting_function(reg_max, up, reg_scale, uniform=uniform) for uniform in (False, True))
    assert line.dtype == torch.float32 and line.shape == curve.shape
    assert_close(line[[0, -1]], curve[[0, -1]])
    assert_close(line.diff(), torch.full((reg_max,), 4 * up / reg_max))  # -2a to 2a in N steps
    assert_close(line, -line.flip(0), rtol=0, atol=0)
    assert reg_max == 4 or not torch.allclose(line, curve, atol=0.02)


def test_edges_are_encoded_and_decoded_over_uniform_bins_too():
    w, initial, target = weighting_function(32, uniform=True), random_boxes(20), random_boxes(20, seed=1)
    near = initial + 0.3 * (target - initial)
    left, weight_right = encode_edges(initial, near, w)
    offsets = expected_offsets(two_bin_logits(left, weight_right, 33), w)
    inside = (left > 0).all(-1) & (left < 31).all(-1)  # beyond the last bins there is nothing to find
    assert inside.sum() > 5
    assert_close(decode_boxes(initial, offsets)[inside], near[inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reg_max", [5, 31, 2, 0, -4])
def test_a_reg_max_that_is_odd_or_below_4_is_refused(reg_max):
    with pytest.raises(ValueError, match=f"reg_max must be even and at least 4, got {reg_max}"):
        weighting_function(reg_max)


@pytest.mark.parametrize(("up", "reg_scale"), [(0.0, 4.0), (-0.5, 4.0), (0.5, 0.0)])
def test_up_and_reg_scale_that_are_not_positive_are_refused(up, reg_scale):
    with pytest.raises(ValueError, match="positive"):
        weighting_function(32, up, reg_scale)


# ---- from distributions to boxes -------------------------------------------------------------------------------------


def test_a_distribution_sure_of_one_bin_gives_that_bins_offset():
    w = weighting_function(32)
    for bins in ([0, 16, 31, 32], [5, 4, 3, 2]):  # left, top, right, bottom
        logits = torch.zeros(4, 33)
        logits[torch.arange(4), bins] = 1000.0
        assert_close(expected_offsets(logits, w), w[bins], rtol=0, atol=0)


def test_a_distribution_that_knows_nothing_leaves_the_edge_where_it_is():
    assert_close(expected_offsets(torch.zeros(2, 3, 4, 33), weighting_function(32)), torch.zeros(2, 3, 4))


def test_half_and_half_between_two_bins_gives_the_middle():
    w = weighting_function(4)  # -1, -0.5, 0, 0.5, 1
    logits = torch.full((4, 5), -1000.0)
    logits[:, 3:] = 7.0
    assert_close(expected_offsets(logits, w), torch.full((4,), 0.75))


def test_edges_move_out_by_their_offset_worked_out_by_hand():
    # Sides (0.2, 0.4). Left: 0.5 - (0.5 + 0.25) 0.2, top: 0.5 - 0.5 * 0.4, right: 0.5 + (0.5 - 0.25) 0.2,
    # bottom: 0.5 + (0.5 + 0.5) 0.4.
    boxes = decode_boxes(torch.tensor([0.5, 0.5, 0.2, 0.4]), torch.tensor([0.25, 0.0, -0.25, 0.5]))
    assert_close(box_cxcywh_to_xyxy(boxes), torch.tensor([0.35, 0.3, 0.55, 0.9]))


def test_offsets_of_zero_give_the_initial_box():
    boxes = random_boxes(50)
    assert_close(decode_boxes(boxes, torch.zeros(50, 4)), boxes)


# ---- and back --------------------------------------------------------------------------------------------------------


def test_the_bins_about_each_edge_worked_out_by_hand():
    # N = 4: W = -1, -0.5, 0, 0.5, 1; side 1/2. The target's edges are 5/8, 1/2, 1/4 and 15/16 of a side from the
    # centre, the box's own are 1/2: offsets 1/8, 0, -1/4, 7/16.
    initial = torch.tensor([0.5, 0.5, 0.5, 0.5])
    target = torch.tensor([0.40625, 0.609375, 0.4375, 0.71875])  # xyxy 0.1875, 0.25, 0.625, 0.96875
    left, weight_right = encode_edges(initial, target, weighting_function(4))
    assert left.tolist() == [2, 2, 1, 2]
    assert weight_right.tolist() == [0.25, 0.0, 0.5, 0.875]


@pytest.mark.parametrize(("reg_max", "reg_scale"), [(4, 4.0), (32, 4.0), (32, 8.0)])
def test_encoding_then_decoding_gives_the_box_back(reg_max, reg_scale):
    w = weighting_function(reg_max, 0.5, reg_scale)
    initial = random_boxes(400)
    reach = 0.4 + 1.2 * torch.rand(
        400, 4, generator=torch.Generator().manual_seed(1)
    )  # of half a side, from the centre
    target = decode_boxes(initial, (reach - 1) / 2)
    left, weight_right = encode_edges(initial, target, w)
    offsets = expected_offsets(two_bin_logits(left, weight_right, reg_max + 1), w)
    assert_close(decode_boxes(initial, offsets), target, rtol=0, atol=1e-6)


def test_edges_beyond_the_last_bins_get_that_bin_alone():
    initial = torch.tensor([0.5, 0.5, 0.01, 0.01])
    far_out, far_in = torch.tensor([0.5, 0.5, 0.9, 0.9]), torch.tensor([0.9, 0.9, 0.01, 0.01])
    left, weight_right = encode_edges(initial, far_out, weighting_function(32))
    assert left.tolist() == [31] * 4
    assert weight_right.tolist() == [1.0] * 4
    left, weight_right = encode_edges(initial, far_in, weighting_function(32))
    assert left.tolist() == [0, 0, 31, 31]  # its left and top edges are right of and below the whole box
    assert weight_right.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_an_initial_box_without_size_gives_finite_bins():
    left, weight_right = encode_edges(
        torch.tensor([0.5, 0.5, 0.0, 0.0]), random_boxes(20).expand(20, 4), weighting_function(32)
    )
    assert ((left >= 0) & (left <= 31)).all()
    assert ((weight_right >= 0) & (weight_right <= 1)).all()


def test_bins_are_those_of_a_search_one_edge_at_a_time():
    w = weighting_function(32)
    initial, target = random_boxes(60, seed=2), random_boxes(60, seed=3)
    left, weight_right = encode_edges(initial, target, w)
    for (cx, cy, width, height), box, bins, weights in zip(initial, box_cxcywh_to_xyxy(target), left, weight_right):
        sides = [width, height] * 2
        distances = [cx - box[0], cy - box[1], box[2] - cx, box[3] - cy]
        for distance, side, n, weight in zip(distances, sides, bins, weights):
            d = (distance / side - 0.5).item()
            if d <= w[0]:
                expected = 0.0
            elif d >= w[-1]:
                expected = 32.0
            else:
                expected = max(i for i in range(33) if w[i] <= d)
                expected += ((d - w[expected]) / (w[expected + 1] - w[expected])).item()
            # As one number, so that an edge on a bin may be the end of one gap or the start of the next.
            assert n + weight == pytest.approx(expected, abs=1e-3)
