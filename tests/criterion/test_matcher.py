from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import as_targets
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import box_convert, generalized_box_iou

from dfine_lib.config import LossConfig
from dfine_lib.criterion.matcher import MatchedIndices, match, matching_cost, union_set
from dfine_lib.data.targets import Targets

CONFIG = LossConfig()


def random_predictions(layers: int, batch: int, queries: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits `[K, B, Q, C]` and boxes `[K, B, Q, 4]`."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, batch, queries, classes, generator=generator)
    size = 0.05 + 0.4 * torch.rand(layers, batch, queries, 2, generator=generator)
    centre = size / 2 + torch.rand(size.shape, generator=generator) * (1 - size)
    return logits, torch.cat([centre, size], dim=-1)


def pairs(*layers: list[tuple[int, int, int]]) -> MatchedIndices:
    """Layers of (image, query, box)."""
    columns = torch.tensor(layers, dtype=torch.int64).reshape(len(layers), -1, 3)
    return MatchedIndices(*columns.unbind(-1))


def triples(matched: MatchedIndices, layer: int = 0) -> list[tuple[int, int, int]]:
    return list(
        zip(matched.image[layer].tolist(), matched.query[layer].tolist(), matched.box[layer].tolist(), strict=True)
    )


# ---- matching cost matrix --------------------------------------------------------------------------------------------


def test_the_cost_of_one_pair_worked_out_by_hand():
    # Probability 1/2: 0.25 / 4 * ln 2 - 0.75 / 4 * ln 2 = -ln 2 / 8. The boxes: L1 0.2; side by side, they
    # fill their smallest enclosing box of 0.4 x 0.2: IoU 0, GIoU 0.
    cost = matching_cost(
        torch.zeros(1, 1, 1, 3),
        torch.tensor([[[[0.3, 0.5, 0.2, 0.2]]]]),
        Targets(torch.tensor([2]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]), (1,)),
        CONFIG,
    )
    assert_close(cost, torch.tensor([[[2 * -math.log(2) / 8 + 5 * 0.2]]]))


def test_the_cost_is_that_of_a_loop_over_layers_boxes_and_queries():
    logits, boxes = random_predictions(3, 2, 6, 4)
    targets = Targets.of_images(as_targets([3, 2], 4))
    image = torch.tensor([0, 0, 0, 1, 1])
    cost = matching_cost(logits, boxes, targets, CONFIG)
    assert cost.shape == (3, 5, 6)
    for m, k, q in itertools.product(range(5), range(3), range(6)):
        p = logits[k, image[m], q, targets.labels[m]].sigmoid().item()
        own, target = boxes[k, image[m], q], targets.boxes_cxcywh[m]
        focal = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8) - 0.75 * p**2 * -math.log(1 - p + 1e-8)
        distance = sum(abs(a - b) for a, b in zip(own.tolist(), target.tolist()))
        overlap = generalized_box_iou(*(box_convert(b[None], "cxcywh", "xyxy") for b in (own, target))).item()
        assert cost[k, m, q].item() == pytest.approx(2 * focal + 5 * distance - 2 * overlap, rel=1e-5, abs=1e-5)


def test_a_cost_that_is_nan_counts_as_one():
    logits, boxes = random_predictions(1, 1, 3, 2)
    logits[0, 0, 1], boxes[0, 0, 2, 0] = torch.nan, torch.nan
    targets = Targets.of_images(as_targets([2], 2))
    cost = matching_cost(logits, boxes, targets, CONFIG)
    assert cost[0, :, 1:].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert (cost[0, :, 0] != 1.0).all()


def test_predictions_that_are_all_nan_are_still_matched():
    logits, boxes = random_predictions(2, 1, 5, 2)
    targets = Targets.of_images(as_targets([3], 2))
    matched = match(logits * torch.nan, boxes * torch.nan, targets, CONFIG)
    assert sorted(matched.box[0].tolist()) == [0, 1, 2]


# ---- matching --------------------------------------------------------------------------------------------------------


def test_each_layer_gets_its_own_matching_worked_out_by_hand():
    # Two boxes, three queries, all equal scores: a query that lies on a box is that box's.
    target_boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]])
    away = torch.tensor([0.5, 0.5, 0.1, 0.1])
    boxes = torch.stack([torch.stack([away, *target_boxes]), torch.stack([target_boxes[1], away, target_boxes[0]])])
    matched = match(torch.zeros(2, 1, 3, 1), boxes[:, None], Targets(torch.tensor([0, 0]), target_boxes, (2,)), CONFIG)
    assert triples(matched, 0) == [(0, 1, 0), (0, 2, 1)]
    assert triples(matched, 1) == [(0, 2, 0), (0, 0, 1)]


def test_boxes_of_a_later_image_keep_their_place_among_all():
    logits, boxes = random_predictions(1, 3, 4, 2)
    targets = Targets.of_images(as_targets([2, 0, 3], 2))
    matched = match(logits, boxes, targets, CONFIG)
    assert sorted((i, m) for i, _, m in triples(matched)) == [(0, 0), (0, 1), (2, 2), (2, 3), (2, 4)]


@pytest.mark.parametrize("seed", range(4))
def test_no_other_assignment_costs_less(seed):
    logits, boxes = random_predictions(2, 2, 5, 3, seed)
    targets = Targets.of_images(as_targets([3, 2], 3, seed))
    matched = match(logits, boxes, targets, CONFIG)
    cost = matching_cost(logits, boxes, targets, CONFIG)
    for k in range(2):
        for members in ([0, 1, 2], [3, 4]):
            chosen = {m: q for _, q, m in triples(matched, k)}
            least = min(
                sum(cost[k, m, q].item() for m, q in zip(members, order))
                for order in itertools.permutations(range(5), len(members))
            )
            assert sum(cost[k, m, chosen[m]].item() for m in members) == pytest.approx(least, abs=1e-5)


def test_more_boxes_than_queries_gives_every_query_one_box():
    logits, boxes = random_predictions(2, 2, 3, 4)
    targets = Targets.of_images(as_targets([5, 2], 4))
    matched = match(logits, boxes, targets, CONFIG)
    assert matched.query.shape == (2, 3 + 2)
    for k in range(2):
        assert sorted(q for i, q, _ in triples(matched, k) if i == 0) == [0, 1, 2]
        assert len({m for _, _, m in triples(matched, k)}) == 5


def test_a_batch_without_boxes_gives_no_pairs():
    logits, boxes = random_predictions(3, 2, 4, 2)
    targets = Targets.of_images(as_targets([0, 0], 2))
    matched = match(logits, boxes, targets, CONFIG)
    assert matched.image.shape == matched.query.shape == matched.box.shape == (3, 0)
    assert matched.query.dtype == torch.int64
    assert union_set(matched, 4).query.shape == (1, 0)


def test_matching_keeps_no_gradient_and_takes_half_precision():
    logits, boxes = random_predictions(1, 1, 4, 2)
    targets = Targets.of_images(as_targets([2], 2))
    whole = match(logits.requires_grad_(), boxes, targets, CONFIG)
    half = match(logits.half(), boxes, targets, CONFIG)
    assert triples(whole) == triples(half)


# ---- union set -------------------------------------------------------------------------------------------------------


def test_the_union_of_three_layers_worked_out_by_hand():
    # Query 4 was box 0's twice and box 1's once: it stays box 0's. Query 2 was each box's once: the smaller box has it.
    union = union_set(
        pairs([(0, 4, 0), (0, 2, 1)], [(0, 4, 0), (0, 7, 1)], [(0, 2, 0), (0, 4, 1)]),
        num_queries=10,
    )
    assert triples(union) == [(0, 2, 0), (0, 4, 0), (0, 7, 1)]


def test_a_pair_that_more_layers_chose_goes_before_a_smaller_box():
    union = union_set(pairs([(0, 1, 0)], [(0, 1, 3)], [(0, 1, 3)]), num_queries=2)
    assert triples(union) == [(0, 1, 3)]


def test_a_box_may_keep_several_queries():
    union = union_set(pairs([(0, 1, 0)], [(0, 5, 0)], [(0, 3, 0)]), num_queries=6)
    assert triples(union) == [(0, 1, 0), (0, 3, 0), (0, 5, 0)]


def test_the_same_query_of_two_images_is_two_queries():
    union = union_set(pairs([(0, 3, 0), (1, 3, 1)]), num_queries=4)
    assert triples(union) == [(0, 3, 0), (1, 3, 1)]


def test_layers_that_agree_give_their_own_pairs():
    one = [(0, 2, 0), (0, 5, 1), (1, 0, 2)]
    assert triples(union_set(pairs(one, one, one), 6)) == one


def walked(matched: MatchedIndices) -> list[tuple[int, int, int]]:
    """The rule with a dictionary: pairs by falling count, then query, then box; a query keeps its first box."""
    kept = []
    for image in sorted(set(matched.image.flatten().tolist())):
        count = Counter((q, m) for k in range(len(matched.query)) for i, q, m in triples(matched, k) if i == image)
        first: dict[int, int] = {}
        for query, box in sorted(count, key=lambda pair: (-count[pair], pair)):
            first.setdefault(query, box)
        kept += [(image, query, first[query]) for query in sorted(first)]
    return kept


@st.composite
def matchings(draw: st.DrawFn) -> tuple[MatchedIndices, int]:
    """Random matchings of a few layers over a few images, and the number of queries."""
    num_queries = draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(0, num_queries), min_size=1, max_size=3))
    layers = []
    for _ in range(draw(st.integers(1, 6))):
        layer, start = [], 0
        for image, count in enumerate(counts):
            order = draw(st.permutations(range(num_queries)))
            layer += [(image, order[i], start + i) for i in range(count)]
            start += count
        layers.append(layer)
    return pairs(*layers), num_queries


@settings(max_examples=150, deadline=None, derandomize=True)
@given(matchings())
def test_the_union_is_that_of_a_walk_through_a_dictionary(drawn):
    matched, num_queries = drawn
    assert triples(union_set(matched, num_queries)) == walked(matched)


def test_indices_for_all_layers_alike_stay_one_row():
    alike, apart = pairs([(0, 1, 2), (1, 3, 4)]), pairs([(0, 1, 2)], [(0, 1, 3)], [(0, 1, 4)])
    assert alike.first(2).query.tolist() == [[1, 3]]
    assert apart.first(2).box.tolist() == [[2], [3]]
