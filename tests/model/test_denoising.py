from __future__ import annotations

import math

import pytest
import torch
from published import as_targets
from torch.testing import assert_close

from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.model.denoising import denoising_mask, make_denoising_queries

CLASSES = 7


def targets_in_the_middle(counts: list[int]) -> list[dict[str, torch.Tensor]]:
    """Boxes so far from the border that a corner moved by a whole side stays inside the image."""
    generator = torch.Generator().manual_seed(5)
    targets = []
    for n in counts:
        centre, size = torch.rand(2, n, 2, generator=generator)
        labels = torch.randint(0, CLASSES, (n,), generator=generator)
        targets.append({"labels": labels, "boxes": torch.cat([0.4 + 0.2 * centre, 0.1 + 0.1 * size], dim=1)})
    return targets


# ---- the attention mask --------------------------------------------------------------------------------------------


def test_the_mask_of_two_groups_worked_out_by_hand():
    # One positive and one negative a group, two groups, then two matching queries.
    rows = ["110011", "110011", "001111", "001111", "000011", "000011"]
    assert denoising_mask(1, 2, 2).int().tolist() == [[int(c) for c in row] for row in rows]


@pytest.mark.parametrize(("largest", "groups", "queries"), [(1, 1, 1), (3, 4, 5), (2, 1, 10)])
def test_matching_queries_never_attend_to_denoising_queries(largest, groups, queries):
    mask, number = denoising_mask(largest, groups, queries), 2 * largest * groups
    assert mask.shape == (number + queries, number + queries)
    assert not mask[number:, :number].any()
    assert mask[:, number:].all()
    assert mask[:number, :number].sum() == groups * (2 * largest) ** 2


# ---- how many, and which box each learns -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "num_denoising", "groups"),
    [([3, 1], 100, 33), ([40, 7], 100, 2), ([0, 1], 100, 100), ([150], 100, 1), ([5, 5], 4, 1)],
)
def test_groups_share_out_the_wanted_number_and_are_at_least_one(counts, num_denoising, groups):
    made = make_denoising_queries(as_targets(counts, CLASSES), CLASSES, 10, num_denoising)
    assert made.plan.num_groups == groups
    assert made.plan.num_queries == 2 * max(counts) * groups
    assert made.labels.shape == (len(counts), made.plan.num_queries)
    assert made.reference_logits.shape == (len(counts), made.plan.num_queries, 4)
    assert made.attn_mask.shape == (made.plan.num_queries + 10,) * 2


def test_the_plans_pairs_worked_out_by_hand():
    # Two, no and one box: groups of 2 positives and 2 negatives; query 0, 1 and 4, 5 are the positives.
    plan = make_denoising_queries(as_targets([2, 0, 1], CLASSES), CLASSES, 10, num_denoising=5).plan
    assert plan.num_groups == 2
    assert plan.num_queries == 8
    triples = list(zip(plan.image.tolist(), plan.query.tolist(), plan.box.tolist(), strict=True))
    assert triples == [(0, 0, 0), (0, 1, 1), (2, 0, 2), (0, 4, 0), (0, 5, 1), (2, 4, 2)]


def test_without_noise_every_planned_query_is_its_box():
    targets = as_targets([3, 0, 5], CLASSES)
    made = make_denoising_queries(targets, CLASSES, 10, 20, label_noise_ratio=0.0, box_noise_scale=0.0)
    boxes, labels = torch.cat([t["boxes"] for t in targets]), torch.cat([t["labels"] for t in targets])
    plan = made.plan
    assert_close(made.reference_logits[plan.image, plan.query].sigmoid(), boxes[plan.box], rtol=0, atol=2e-5)
    assert torch.equal(made.labels[plan.image, plan.query], labels[plan.box])
    negative = plan.query + 5  # behind the positives of the same group, the same boxes again
    assert torch.equal(made.labels[plan.image, negative], labels[plan.box])


@pytest.mark.parametrize(("counts", "num_denoising"), [([0, 0], 100), ([0], 100), ([3, 5], 0)])
def test_nothing_to_denoise_gives_none_and_draws_nothing(counts, num_denoising):
    before = torch.get_rng_state()
    assert make_denoising_queries(as_targets(counts, CLASSES), CLASSES, 10, num_denoising) is None
    assert torch.equal(torch.get_rng_state(), before)


# ---- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_padding_is_never_flipped(seed):
    torch.manual_seed(seed)
    made = make_denoising_queries(as_targets([1, 4], CLASSES), CLASSES, 10, 100, label_noise_ratio=2.0)  # flips all
    place = torch.arange(made.plan.num_queries) % 4
    assert (made.labels[0, place > 0] == CLASSES).all()
    assert (made.labels[0, place == 0] < CLASSES).all()
    assert (made.labels[1] < CLASSES).all()


def test_a_quarter_of_the_labels_is_drawn_anew():
    torch.manual_seed(0)
    targets = [{"labels": torch.zeros(20, dtype=torch.int64), "boxes": torch.full((20, 4), 0.5)}] * 20
    labels = make_denoising_queries(targets, 1000, 10, 100).labels
    share = (labels != 0).float().mean().item()
    assert labels.numel() == 4000
    assert share == pytest.approx(0.25 * 0.999, abs=4 * math.sqrt(0.25 * 0.75 / 4000))  # four standard deviations


@pytest.mark.parametrize("seed", range(5))
def test_corners_move_by_less_than_half_a_side_for_positives_and_more_for_negatives(seed):
    torch.manual_seed(seed)
    targets = targets_in_the_middle([4, 4])
    made = make_denoising_queries(targets, CLASSES, 10, 100)
    original = torch.stack([t["boxes"] for t in targets]).repeat(1, 2 * made.plan.num_groups, 1)
    half = original[..., 2:].repeat(1, 1, 2) / 2
    before, after = box_cxcywh_to_xyxy(original), box_cxcywh_to_xyxy(made.reference_logits.sigmoid())
    move = (after - before).abs() / half
    # Corners that crossed come back in order: then the low one is the moved high one.
    crossed = (after.roll(2, dims=-1) - before).abs() / half
    positive = torch.arange(made.plan.num_queries) // 4 % 2 == 0
    slack = 1e-4  # float32 through a logit and back, divided by a small side
    assert (move[:, positive] < 1 + slack).all()
    straight = (move > 1 - slack) & (move < 2 + slack)
    swapped = (crossed > 1 - slack) & (crossed < 2 + slack)
    x, y = [0, 2], [1, 3]
    for axis in (x, y):
        fits = straight[:, ~positive][..., axis].all(-1) | swapped[:, ~positive][..., axis].all(-1)
        assert fits.all()


def test_noised_boxes_stay_inside_the_image():
    torch.manual_seed(0)
    edges = torch.tensor([[0.05, 0.5, 0.1, 1.0], [0.9, 0.9, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]])
    made = make_denoising_queries([{"labels": torch.tensor([0, 1, 2]), "boxes": edges}], CLASSES, 10, 100)
    boxes = made.reference_logits.sigmoid()
    xyxy = box_cxcywh_to_xyxy(boxes)
    assert (boxes[..., 2:] >= 0).all()
    assert ((xyxy > -2e-5) & (xyxy < 1 + 2e-5)).all()  # logits are clipped at 1e-5
    assert torch.isfinite(made.reference_logits).all()


def test_numbers_are_drawn_in_the_published_order_from_the_global_generator():
    counts, groups, largest = [2, 0, 3], 3, 3
    targets, total = as_targets(counts, CLASSES), 2 * 3 * groups
    torch.manual_seed(11)
    made = make_denoising_queries(targets, CLASSES, 10, num_denoising=10)
    state = torch.get_rng_state()

    torch.manual_seed(11)
    flip = torch.rand(3, total)
    drawn = torch.randint(0, CLASSES, (3, total))
    sign = torch.randint(0, 2, (3, total, 4)) * 2 - 1
    distance = torch.rand(3, total, 4)
    assert torch.equal(torch.get_rng_state(), state)
    for b, count in enumerate(counts):
        for q in range(total):
            place = q % largest
            if place >= count:
                assert made.labels[b, q] == CLASSES
                continue
            label = drawn[b, q] if flip[b, q] < 0.25 else targets[b]["labels"][place]
            assert made.labels[b, q] == label
            cx, cy, w, h = targets[b]["boxes"][place].tolist()
            corners = []
            for k, (corner, side) in enumerate(zip((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), (w, h, w, h))):
                u = distance[b, q, k].item() + (q // largest % 2)
                corners.append(min(max(corner + sign[b, q, k].item() * u * side / 2, 0.0), 1.0))
            x1, y1, x2, y2 = corners
            box = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, abs(x2 - x1), abs(y2 - y1)])
            assert_close(made.reference_logits[b, q].sigmoid(), box, rtol=0, atol=2e-5)  # logits are clipped at 1e-5
