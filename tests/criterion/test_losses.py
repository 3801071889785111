from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from dfine_lib.criterion.losses import (
    box_losses,
    decoupled_distillation_loss,
    fine_grained_localization_loss,
    gather_matched,
    softened_divergence,
    varifocal_loss,
)
from dfine_lib.criterion.matcher import MatchedIndices

LAYERS, BATCH, QUERIES, CLASSES, BINS = 3, 2, 5, 4, 5
LABELS = torch.tensor([2, 0, 3])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_pairs() -> MatchedIndices:
    """Boxes 0 and 1 in image 0, box 2 in image 1; another query for each layer."""
    image, query, box = [0, 0, 1], [[3, 4, 2], [2, 3, 1], [1, 0, 4]], [0, 1, 2]
    return MatchedIndices(torch.tensor([image] * LAYERS), torch.tensor(query), torch.tensor([box] * LAYERS))


def some_iou() -> Tensor:
    return torch.rand(LAYERS, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def some_boxes(*shape: int, seed: int = 0) -> Tensor:
    """cxcywh inside the image."""
    r = torch.rand(*shape, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = 0.05 + 0.4 * r[..., 2:]
    return torch.cat([size / 2 + r[..., :2] * (1 - size), size], dim=-1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---- VFL -------------------------------------------------------------------------------------------------------------


def test_vfl_of_one_query_and_two_classes_worked_out_by_hand():
    # Matched to class 1 with IoU 0.8, both probabilities 1/2: 0.8 ln 2 there, 0.75 / 4 ln 2 at the other class.
    pair = MatchedIndices(*torch.zeros(3, 1, 1, dtype=torch.int64))
    loss = varifocal_loss(torch.zeros(1, 1, 1, 2), pair, torch.tensor([1]), torch.tensor([[0.8]]))
    assert_close(loss, torch.tensor([(0.8 + 0.75 / 4) * math.log(2)]))


def test_vfl_is_that_of_a_loop_over_queries_and_classes():
    logits, pairs, iou = drawn(LAYERS, BATCH, QUERIES, CLASSES), some_pairs(), some_iou()
    expected = []
    for k in range(LAYERS):
        target = {
            (pairs.image[k, j].item(), pairs.query[k, j].item(), LABELS[pairs.box[k, j]].item()): iou[k, j].item()
            for j in range(3)
        }
        total = 0.0
        for b in range(BATCH):
            for q in range(QUERIES):
                for c in range(CLASSES):
                    p, soft = sigmoid(logits[k, b, q, c].item()), target.get((b, q, c), 0.0)
                    weight = soft if (b, q, c) in target else 0.75 * p**2
                    total -= weight * (soft * math.log(p) + (1 - soft) * math.log(1 - p))
        expected.append(total)
    assert_close(varifocal_loss(logits, pairs, LABELS, iou), torch.tensor(expected, dtype=torch.float64))


def test_vfl_pulls_a_matched_score_towards_its_iou_and_all_others_down():
    pairs, iou = some_pairs(), some_iou()
    logits = drawn(LAYERS, BATCH, QUERIES, CLASSES).requires_grad_()
    varifocal_loss(logits, pairs, LABELS, iou).sum().backward()
    layer = torch.arange(LAYERS)[:, None]
    place = (layer, pairs.image, pairs.query, LABELS[pairs.box])
    # Weights carry no gradient: what is left is weight * (p - target).
    p = logits.detach().sigmoid()
    expected = 0.75 * p**2 * p
    expected[place] = iou * (p[place] - iou)
    assert_close(logits.grad, expected)


def test_vfl_without_pairs_is_that_of_the_background():
    logits = drawn(1, 1, 2, 3)
    none = MatchedIndices(*torch.zeros(3, 1, 0, dtype=torch.int64))
    p = logits.sigmoid()
    loss = varifocal_loss(logits, none, LABELS[:0], torch.zeros(1, 0))
    assert_close(loss, (0.75 * p**2 * -(1 - p).log()).sum()[None])


def test_vfl_of_extreme_logits_is_finite():
    pair = MatchedIndices(*torch.zeros(3, 1, 1, dtype=torch.int64))
    logits = torch.tensor([[[[-500.0, 500.0]]]], requires_grad=True)
    loss = varifocal_loss(logits, pair, torch.tensor([0]), torch.tensor([[1.0]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(500 + 0.75 * 500)
    assert torch.isfinite(logits.grad).all()


# ---- boxes -----------------------------------------------------------------------------------------------------------


def test_box_losses_worked_out_by_hand():
    # Two squares of side 0.2 that touch: L1 0.2, IoU 0; they fill their smallest enclosing box, so GIoU 0. Then
    # the same box twice.
    boxes = torch.tensor([[[0.3, 0.5, 0.2, 0.2], [0.4, 0.4, 0.2, 0.2]]])
    targets = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.4, 0.4, 0.2, 0.2]]])
    l1, giou, iou = box_losses(boxes, targets)
    assert_close(l1, torch.tensor([0.2]))
    assert_close(giou, torch.tensor([1.0]))
    assert_close(iou, torch.tensor([[0.0, 1.0]]), rtol=0, atol=1e-6)


def test_box_losses_are_those_of_a_loop_over_pairs():
    boxes, targets = some_boxes(LAYERS, 7), some_boxes(LAYERS, 7, seed=1)
    l1, giou, iou = box_losses(boxes, targets)
    for k in range(LAYERS):
        distance = sum(abs(a - b) for x, y in zip(boxes[k].tolist(), targets[k].tolist()) for a, b in zip(x, y))
        assert l1[k].item() == pytest.approx(distance)
        ours, theirs = (box_convert(x[k], "cxcywh", "xyxy") for x in (boxes, targets))
        assert_close(giou[k], (1 - generalized_box_iou(ours, theirs).diag()).sum())
        assert_close(iou[k], box_iou(ours, theirs).diag())


def test_iou_carries_no_gradient():
    assert not box_losses(some_boxes(1, 2).requires_grad_(), some_boxes(1, 2, seed=1))[2].requires_grad


def test_edges_that_passed_each_other_count_as_no_width():
    # A distribution can move the left edge beyond the right one. Turned inside out, the box would have a GIoU below -1.
    crossed, flat = torch.tensor([[[0.5, 0.5, -0.3, 0.2]]]), torch.tensor([[[0.5, 0.5, 0.0, 0.2]]])
    target = torch.tensor([[[0.5, 0.5, 0.3, 0.3]]])
    (l1, giou, iou), (_, giou_flat, iou_flat) = box_losses(crossed, target), box_losses(flat, target)
    assert_close(giou, giou_flat)
    assert_close(iou, iou_flat)
    assert_close(l1, torch.tensor([0.6 + 0.1]))  # while L1 still pulls at the real side


@pytest.mark.parametrize(
    "degenerate",
    [
        [0.3, 0.3, 0.0, 0.0],  # a point
        [0.3, 0.3, 0.2, 0.0],  # a line
        [0.3, 0.3, -0.2, 0.2],  # edges that crossed: distributions can do that
        [0.5, 0.5, 0.0, 0.0],  # a point in the middle of the target
        [40.0, 40.0, 1e-8, 1e-8],  # far away and tiny
    ],
)
def test_degenerate_boxes_give_finite_losses_and_gradients(degenerate):
    boxes = torch.tensor([[degenerate]], requires_grad=True)
    l1, giou, iou = box_losses(boxes, torch.tensor([[[0.5, 0.5, 0.3, 0.3]]]))
    (l1 + giou).sum().backward()
    assert torch.isfinite(l1 + giou).all()
    assert iou.abs().max() < 1e-6
    assert torch.isfinite(boxes.grad).all()


# ---- FGL -------------------------------------------------------------------------------------------------------------


def some_soft_targets(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Left bins and right weights of three pairs."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(0, BINS - 1, (1, 3, 4), generator=generator)
    return left, torch.rand(1, 3, 4, generator=generator, dtype=torch.float64)


def test_fgl_of_one_pair_worked_out_by_hand():
    # Knows nothing over 5 bins: ln 5 for any target, four edges, IoU 0.5.
    left, weight_right = torch.tensor([[[0, 1, 2, 3]]]), torch.tensor([[[0.0, 0.25, 0.5, 1.0]]])
    loss = fine_grained_localization_loss(torch.zeros(1, 1, 4, 5), left, weight_right, torch.tensor([[0.5]]))
    assert_close(loss, torch.tensor([0.5 * 4 * math.log(5)]))


def test_fgl_is_that_of_a_loop_over_pairs_and_edges():
    corner_logits, iou, (left, weight_right) = drawn(LAYERS, 3, 4, BINS), some_iou(), some_soft_targets()
    expected = []
    for k in range(LAYERS):
        total = 0.0
        for j in range(3):
            for edge in range(4):
                row = corner_logits[k, j, edge].tolist()
                log_sum, n, weight = (
                    math.log(sum(map(math.exp, row))),
                    left[0, j, edge],
                    weight_right[0, j, edge].item(),
                )
                total += iou[k, j].item() * ((1 - weight) * (log_sum - row[n]) + weight * (log_sum - row[n + 1]))
        expected.append(total)
    got = fine_grained_localization_loss(corner_logits, left, weight_right, iou)
    assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_fgl_is_least_where_the_two_bins_hold_their_interpolation_weights():
    left, weight_right = some_soft_targets()
    label = torch.full((1, 3, 4, BINS), 1e-30, dtype=torch.float64)
    label.scatter_(-1, left[..., None], (1 - weight_right)[..., None])
    label.scatter_(-1, left[..., None] + 1, weight_right[..., None])
    best = label.log().requires_grad_()
    iou = torch.ones(1, 3, dtype=torch.float64)
    least = fine_grained_localization_loss(best, left, weight_right, iou)
    entropy = -(label * label.log()).sum()
    assert_close(least.sum(), entropy)
    least.sum().backward()
    assert best.grad.abs().max() < 1e-12
    for seed in range(5):
        moved = best.detach() + 0.3 * drawn(*best.shape, seed=seed)
        assert fine_grained_localization_loss(moved, left, weight_right, iou) > least


# ---- DDF -------------------------------------------------------------------------------------------------------------


def divergence_by_loops(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Of one query: `[4, BINS]` each."""
    total = 0.0
    for edge in range(4):
        p, q = ([math.exp(x / temperature) for x in logits[edge].tolist()] for logits in (teacher, student))
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q))
    return temperature**2 * total / 4


def test_the_divergence_is_that_of_a_loop_over_edges_and_bins():
    students, teacher = drawn(2, BATCH, QUERIES, 4, BINS), drawn(BATCH, QUERIES, 4, BINS, seed=1)
    got = softened_divergence(students, teacher, temperature=5.0)
    assert got.shape == (2, BATCH, QUERIES)
    for k in range(2):
        for b in range(BATCH):
            for q in range(QUERIES):
                expected = divergence_by_loops(students[k, b, q], teacher[b, q], 5.0)
                assert got[k, b, q].item() == pytest.approx(expected, rel=1e-9)


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    teacher = drawn(BATCH, QUERIES, 4, BINS)
    students = torch.stack([teacher, teacher + 3.0]).requires_grad_()  # a constant changes no distribution
    divergence = softened_divergence(students, teacher)
    assert_close(divergence, torch.zeros_like(divergence), rtol=0, atol=1e-12)
    divergence.sum().backward()
    assert students.grad.abs().max() < 1e-12


def test_the_teacher_gets_no_gradient():
    teacher = drawn(BATCH, QUERIES, 4, BINS).requires_grad_()
    students = drawn(2, BATCH, QUERIES, 4, BINS, seed=1).requires_grad_()
    logits = drawn(BATCH, QUERIES, CLASSES, seed=2).requires_grad_()
    divergence = softened_divergence(students, teacher)
    sums = decoupled_distillation_loss(divergence, some_pairs().first(2), some_iou()[:2], logits)
    torch.stack(sums).sum().backward()
    assert students.grad.abs().max() > 0
    assert teacher.grad is None
    assert logits.grad is None


def test_distillation_sums_matched_and_unmatched_queries_separately_as_a_loop_does():
    students, pairs, iou = LAYERS - 1, some_pairs().first(LAYERS - 1), some_iou()[: LAYERS - 1]
    divergence = drawn(students, BATCH, QUERIES).abs()
    logits = drawn(BATCH, QUERIES, CLASSES, seed=1)
    expected = [[0.0] * students, [0.0] * students]
    for k in range(students):
        overlap = {(pairs.image[k, j].item(), pairs.query[k, j].item()): iou[k, j].item() for j in range(3)}
        for b in range(BATCH):
            for q in range(QUERIES):
                if (b, q) in overlap:
                    expected[0][k] += overlap[b, q] * divergence[k, b, q].item()
                else:
                    highest = max(sigmoid(x) for x in logits[b, q].tolist())
                    expected[1][k] += highest * divergence[k, b, q].item()
    got = decoupled_distillation_loss(divergence, pairs, iou, logits)
    assert_close(torch.stack(got), torch.tensor(expected, dtype=torch.float64))


def test_distillation_without_matched_queries_is_that_of_the_unmatched():
    none = MatchedIndices(*torch.zeros(3, 1, 0, dtype=torch.int64))
    divergence = drawn(1, BATCH, QUERIES).abs().requires_grad_()
    matched, unmatched = decoupled_distillation_loss(
        divergence, none, torch.zeros(1, 0), torch.zeros(BATCH, QUERIES, 1)
    )
    (matched + unmatched).sum().backward()
    assert matched.tolist() == [0.0]
    assert_close(unmatched, 0.5 * divergence.sum()[None])
    assert_close(divergence.grad, torch.full_like(divergence, 0.5))


def test_indices_for_all_predictions_alike_equal_repeated_ones():
    one = some_pairs().first(1)
    repeated = MatchedIndices(*(x.expand(LAYERS, -1) for x in (one.image, one.query, one.box)))
    logits, iou = drawn(LAYERS, BATCH, QUERIES, CLASSES), some_iou()
    assert torch.equal(gather_matched(logits, one), gather_matched(logits, repeated))
    assert torch.equal(varifocal_loss(logits, one, LABELS, iou), varifocal_loss(logits, repeated, LABELS, iou))
    divergence, teacher = logits[..., 0], logits[0]
    found, expected = (decoupled_distillation_loss(divergence, x, iou, teacher) for x in (one, repeated))
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_values_of_matched_queries_come_layer_by_layer():
    values = torch.arange(LAYERS * BATCH * QUERIES).reshape(LAYERS, BATCH, QUERIES)
    pairs = some_pairs()
    expected = [[values[k, pairs.image[k, j], pairs.query[k, j]].item() for j in range(3)] for k in range(LAYERS)]
    assert gather_matched(values, pairs).tolist() == expected
