from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from dfine_lib.evaluate.postprocess import Detections, postprocess


def outputs(logits, boxes) -> SimpleNamespace:
    return SimpleNamespace(pred_logits=torch.tensor(logits), pred_boxes=torch.tensor(boxes))


def random_outputs(batch=2, queries=7, classes=5, seed=0) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(
        pred_logits=torch.randn(batch, queries, classes, generator=generator),
        pred_boxes=torch.rand(batch, queries, 4, generator=generator),
    )


def test_two_queries_and_two_classes_worked_out_by_hand():
    out = outputs([[[0.0, 2.0], [1.0, -1.0]]], [[[0.5, 0.5, 0.2, 0.4], [0.25, 0.75, 0.5, 0.5]]])
    (found,) = postprocess(out, torch.tensor([[200, 100]]), top_k=3)
    assert found.labels.tolist() == [1, 0, 0]
    assert found.queries.tolist() == [0, 1, 0]
    assert_close(found.scores, torch.tensor([2.0, 1.0, 0.0]).sigmoid())
    first, second = [80.0, 30.0, 120.0, 70.0], [0.0, 50.0, 100.0, 100.0]
    assert_close(found.boxes_xyxy, torch.tensor([first, second, first]))


def test_each_image_is_scaled_by_its_own_size():
    out = SimpleNamespace(
        pred_logits=torch.zeros(2, 1, 1), pred_boxes=torch.tensor([[[0.5, 0.5, 1.0, 1.0]]]).repeat(2, 1, 1)
    )
    found = postprocess(out, torch.tensor([[640, 480], [10, 20]]))
    assert [f.boxes_xyxy[0].tolist() for f in found] == [[0, 0, 640, 480], [0, 0, 10, 20]]


def test_scores_fall_and_types_are_as_promised():
    for found in postprocess(random_outputs(), torch.full((2, 2), 100.0), top_k=20):
        assert (found.scores.diff() <= 0).all()
        assert (found.labels.dtype, found.boxes_xyxy.dtype, found.scores.dtype) == (
            torch.int64,
            torch.float32,
            torch.float32,
        )
        assert found.boxes_xyxy.shape == (20, 4)


def test_more_detections_than_there_are_pairs_gives_all_pairs_once():
    (found,) = postprocess(random_outputs(1, 3, 4), torch.tensor([[10.0, 10.0]]), top_k=300)
    assert len(found) == 12
    assert len(set(zip(found.queries.tolist(), found.labels.tolist(), strict=True))) == 12


def test_half_precision_outputs_give_float32_boxes():
    out = random_outputs()
    out.pred_logits, out.pred_boxes = out.pred_logits.bfloat16(), out.pred_boxes.bfloat16()
    assert postprocess(out, torch.ones(2, 2))[0].boxes_xyxy.dtype == torch.float32


def test_nothing_keeps_a_gradient():
    out = random_outputs()
    out.pred_logits.requires_grad_()
    assert not postprocess(out, torch.ones(2, 2))[0].scores.requires_grad


def test_those_above_a_score_keep_their_order():
    found = Detections(torch.tensor([3, 1, 2]), torch.arange(12.0).reshape(3, 4), torch.tensor([0.9, 0.5, 0.1]))
    kept = found.above(0.5)
    assert kept.labels.tolist() == [3, 1]
    assert kept.queries is None
    assert len(found.above(0.95)) == 0


@pytest.mark.parametrize(("sizes", "top_k", "named"), [((1, 2), 300, "sizes_wh"), ((2, 2), 0, "top_k")])
def test_wrong_arguments_are_refused_by_name(sizes, top_k, named):
    with pytest.raises(ValueError, match=named):
        postprocess(random_outputs(), torch.ones(sizes), top_k)
