from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dfine_lib.model.deformable_attention import DeformableAttention, split_heads

SHAPES = [(5, 4), (3, 6), (2, 1)]


def one_head(points: int = 1) -> DeformableAttention:
    """One head and one level on one channel; it looks at the reference's centre."""
    attention = DeformableAttention(1, 1, (points,))
    nn.init.zeros_(attention.sampling_offsets.bias)
    return attention


def look(attention: DeformableAttention, values: list[list[float]], *box: float) -> float:
    """What a query with that reference box (cxcywh) reads from a map of one channel."""
    return attention(torch.zeros(1, 1, 1), torch.tensor([[box]]), [torch.tensor([[values]])]).item()


def random_attention(dim: int, heads: int, points: tuple[int, ...], seed: int = 0) -> DeformableAttention:
    """In float64, with every weight and the stored scale drawn anew."""
    attention = DeformableAttention(dim, heads, points).double()
    generator = torch.Generator().manual_seed(seed)
    for value in attention.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return attention


def random_inputs(batch: int, queries: int, dim: int, shapes: list[tuple[int, int]], seed: int = 1) -> list[Tensor]:
    """Query, reference boxes (some partly outside the image) and memory, float64."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, queries, dim, generator=generator, dtype=torch.float64)
    boxes = torch.rand(batch, queries, 4, generator=generator, dtype=torch.float64)
    memory = torch.randn(batch, sum(h * w for h, w in shapes), dim, generator=generator, dtype=torch.float64)
    return [query, boxes, memory]


# ---- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.25, 0.25, 1.0),  # the middle of the first cell
        (0.75, 0.25, 2.0),  # x runs along a row
        (0.5, 0.5, 2.5),  # between all four
        (0.5, 0.75, 3.5),
        (0.0, 0.0, 0.25),  # the image's corner: a quarter of the first cell, the rest is outside
        (0.0, 0.75, 1.5),
    ],
)
def test_reading_between_cells_worked_out_by_hand(x, y, expected):
    assert look(one_head(), [[1.0, 2.0], [3.0, 4.0]], x, y, 0.1, 0.1) == pytest.approx(expected, abs=1e-6)


def test_an_offset_of_as_many_as_there_are_points_reaches_the_boxs_edge():
    attention = one_head(points=4)
    attention.sampling_offsets.bias.data.copy_(torch.tensor([4.0, 0.0]).repeat(4))
    # Centre 0.3, width 0.4: 0.3 + 4 / 4 * 0.4 * 0.5 = 0.5, the middle of the third of five cells.
    assert look(attention, [[0.0, 0.0, 8.0, 0.0, 0.0]], 0.3, 0.5, 0.4, 0.1) == pytest.approx(8.0, abs=1e-5)


@pytest.mark.parametrize("box", [(1.5, 0.5, 0.1, 0.1), (0.5, -0.6, 0.1, 0.1), (9.0, 9.0, 0.1, 0.1)])
def test_outside_the_image_there_is_zero(box):
    assert look(one_head(), [[1.0, 2.0], [3.0, 4.0]], *box) == 0.0


def test_a_fresh_module_looks_in_eight_directions_at_growing_distances():
    attention = DeformableAttention(8, 8, (3, 1))
    box = torch.tensor([[[0.5, 0.5, 0.4, 0.2]]])
    places = attention.sampling_locations(torch.randn(1, 1, 8), box)[0, 0]  # [heads, points, 2]
    right, down_right = places[0], places[1]
    assert_close(right[:, 0], 0.5 + 0.2 * torch.tensor([1 / 3, 2 / 3, 1.0, 1.0]))
    assert_close(right[:, 1], torch.full((4,), 0.5))
    assert_close(down_right[2:], torch.tensor([[0.7, 0.6], [0.7, 0.6]]))
    assert len({tuple((place - 0.5).sign().int().tolist()) for place in places[:, 2].mul(1e4).round().div(1e4)}) == 8


def test_weights_of_a_head_sum_to_one_over_all_points_of_all_levels():
    attention = random_attention(8, 2, (3, 6, 3))
    weights = attention.sampling_weights(random_inputs(2, 5, 8, SHAPES)[0])
    assert weights.shape == (2, 5, 2, 12)
    assert_close(weights.sum(-1), torch.ones(2, 5, 2, dtype=torch.float64))


def test_the_scale_of_the_points_is_stored_and_the_stored_one_is_used():
    attention = DeformableAttention(8, 8, (3, 6, 3))
    assert_close(attention.state_dict()["num_points_scale"], torch.tensor([1 / 3] * 3 + [1 / 6] * 6 + [1 / 3] * 3))
    box, query = torch.tensor([[[0.5, 0.5, 0.4, 0.2]]]), torch.zeros(1, 1, 8)
    before = attention.sampling_locations(query, box) - 0.5
    attention.load_state_dict({**attention.state_dict(), "num_points_scale": 2 * attention.num_points_scale})
    assert_close(attention.sampling_locations(query, box) - 0.5, 2 * before)


# ---- against loops ---------------------------------------------------------------------------------------------------


def as_maps(memory: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Tokens `[B, S, D]` as feature maps `[B, D, h, w]`."""
    levels = memory.split([h * w for h, w in shapes], dim=1)
    return [level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, shapes, strict=True)]


def bilinear(values: Tensor, x: float, y: float) -> Tensor:
    """Map `[C, h, w]` read at a place in 0..1 of the image; what lies outside is 0."""
    _, h, w = values.shape
    column, row = x * w - 0.5, y * h - 0.5
    total = torch.zeros(values.shape[0], dtype=values.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < h and 0 <= j < w:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * values[:, i, j]
    return total


def attend_by_loops(
    attention: DeformableAttention, query: Tensor, boxes: Tensor, memory: Tensor, shapes: list[tuple[int, int]]
) -> Tensor:
    """The same, one head, level and point at a time."""
    heads, points = attention.num_heads, attention.points_per_level
    total, width = sum(points), memory.shape[-1] // attention.num_heads
    starts = [0, *accumulate(h * w for h, w in shapes)]
    out = torch.zeros_like(query)
    for b in range(query.shape[0]):
        for q in range(query.shape[1]):
            cx, cy, w, h = boxes[b, q].tolist()
            offsets = attention.sampling_offsets(query[b, q])  # laid out head, point, xy
            scores = attention.attention_weights(query[b, q])
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                weights = scores[head * total : (head + 1) * total].softmax(0)
                point = 0
                for level, (rows, columns) in enumerate(shapes):
                    tokens = memory[b, starts[level] : starts[level + 1], own]  # row by row
                    values = tokens.T.reshape(width, rows, columns)
                    for _ in range(points[level]):
                        dx, dy = offsets[2 * (head * total + point) :][:2].tolist()
                        scale = attention.num_points_scale[point].item() * 0.5
                        read = bilinear(values, cx + dx * scale * w, cy + dy * scale * h)
                        out[b, q, own] += weights[point] * read
                        point += 1
    return out


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("heads", "points"), [(1, (1, 1, 1)), (2, (3, 6, 3)), (4, (2, 1, 4))])
def test_attention_is_a_loop_over_heads_levels_and_points(heads, points, seed):
    attention = random_attention(8, heads, points, seed)
    query, boxes, memory = random_inputs(2, 3, 8, SHAPES, seed + 10)
    with torch.no_grad():
        got = attention(query, boxes, split_heads(as_maps(memory, SHAPES), heads))
        assert_close(got, attend_by_loops(attention, query, boxes, memory, SHAPES))


def test_the_gradient_is_that_of_finite_differences():
    shapes = [(3, 2), (1, 2)]
    attention = random_attention(2, 2, (2, 1))
    inputs = [x.requires_grad_() for x in random_inputs(1, 2, 2, shapes)]

    def attend(query: Tensor, boxes: Tensor, memory: Tensor) -> Tensor:
        return attention(query, boxes, split_heads(as_maps(memory, shapes), 2))

    assert torch.autograd.gradcheck(attend, inputs)


def test_each_head_reads_its_own_share_of_the_memory():
    memory = torch.randn(2, 30, 12)
    first, second = split_heads(as_maps(memory, [(5, 4), (2, 5)]), num_heads=3)
    assert first.shape == (6, 4, 5, 4)
    assert second.shape == (6, 4, 2, 5)
    # Image 1, head 2, second level, row 1, column 3: token 20 + 1 * 5 + 3, channels 8 to 11.
    assert_close(second[1 * 3 + 2, :, 1, 3], memory[1, 28, 8:12])


# ---- under autocast --------------------------------------------------------------------------------------------------


def test_sampling_locations_keep_float32_under_autocast():
    """In bf16 an offset has 8 bits, so every sample moves; the weights of the samples may round."""
    torch.manual_seed(0)
    attention = DeformableAttention(32, 4, (2, 3)).float()
    nn.init.normal_(attention.sampling_offsets.weight)
    query, boxes = torch.randn(2, 5, 32), torch.rand(2, 5, 4)
    expected = attention.sampling_locations(query, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention.sampling_locations(query, boxes), expected)
        assert attention.sampling_locations(query.bfloat16(), boxes).dtype == torch.float32
        assert attention.attention_weights(query).dtype == torch.bfloat16
