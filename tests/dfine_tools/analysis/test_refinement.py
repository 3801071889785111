from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from dfine_lib.boxes import box_xyxy_to_cxcywh
from dfine_lib.evaluate import Detections, postprocess
from dfine_lib.model.distribution import decode_boxes, expected_offsets
from dfine_lib.model.outputs import DecoderOutput, DFINEOutput, LayerOutput
from dfine_tools.analysis.refinement import nearest_ground_truths, refinement_of

L, B, Q, C, N = 3, 2, 5, 4, 8


@pytest.fixture
def outputs() -> DFINEOutput:
    """Random distributions on random initial boxes, decoded as the model does."""
    generator = torch.Generator().manual_seed(0)
    bin_offsets = torch.linspace(-1, 1, N + 1)
    initial = torch.rand(B, Q, 4, generator=generator)
    corner_logits = torch.randn(L, B, Q, 4, N + 1, generator=generator)
    boxes = decode_boxes(initial.expand(L, -1, -1, -1), expected_offsets(corner_logits, bin_offsets))
    logits = torch.randn(L, B, Q, C, generator=generator)
    decoder = DecoderOutput(logits, boxes, corner_logits, LayerOutput(logits[0], initial))
    return DFINEOutput(logits[-1], boxes[-1], decoder, None, bin_offsets)


def test_the_last_box_of_a_refinement_is_the_detection(outputs):
    sizes_wh = torch.tensor([[200, 100], [64, 64]])
    for image, found in enumerate(postprocess(outputs, sizes_wh, top_k=6)):
        for query, box_xyxy in zip(found.queries.tolist(), found.boxes_xyxy, strict=True):
            assert_close(refinement_of(outputs, image, query, sizes_wh[image]).boxes_by_layer_xyxy[-1], box_xyxy)


def test_the_distributions_lead_from_the_initial_box_to_each_layer_s_box(outputs):
    steps = refinement_of(outputs, 1, 2, (640, 480))
    assert steps.boxes_by_layer_xyxy.shape == (L + 1, 4)
    initial = box_xyxy_to_cxcywh(steps.boxes_by_layer_xyxy[0])
    offsets = expected_offsets(steps.corner_logits_by_layer, steps.bin_offsets)
    want = decode_boxes(initial.expand(L, 4), offsets)
    assert_close(box_xyxy_to_cxcywh(steps.boxes_by_layer_xyxy[1:]), want, rtol=1e-4, atol=1e-3)


def test_layers_that_were_not_kept_are_asked_for(outputs):
    with pytest.raises(ValueError, match="keep_layers"):
        refinement_of(replace(outputs, decoder=None), 0, 0, (1, 1))


def test_a_detection_belongs_to_the_box_of_its_class_that_it_covers_most():
    truth_labels = torch.tensor([0, 0, 1])
    truth_boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 12, 10], [0, 0, 10, 10]])
    found = Detections(
        torch.tensor([0, 1, 0, 2]),
        torch.tensor([[0.0, 0, 12, 10], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]]),
        torch.tensor([0.9, 0.8, 0.7, 0.6]),
    )
    assert nearest_ground_truths(found, truth_labels, truth_boxes).tolist() == [1, 2, -1, -1]
    assert nearest_ground_truths(found, truth_labels[:0], truth_boxes[:0]).tolist() == [-1] * 4
    assert nearest_ground_truths(found.above(1.0), truth_labels, truth_boxes).tolist() == []


def test_found_objects_are_those_of_the_truth_with_their_surest_query():
    from data_tools import shapes
    from dfine_lib import DFINE
    from dfine_lib.boxes import box_iou
    from dfine_tools.analysis.refinement import found_objects

    model = DFINE.from_pretrained(Path(__file__).parents[3] / "notebooks/assets/dfine_pico_shapes.safetensors")
    batch = shapes.batch(4)
    with torch.no_grad():
        outputs = model(batch.images, keep_layers=True)
    found = found_objects(outputs, batch.sizes_wh, batch.labels, batch.boxes_xyxy)
    assert len(found) >= 0.7 * sum(map(len, batch.labels))
    assert len({(one.image, one.ground_truth) for one in found}) == len(found)
    for one in found:
        assert one.label == batch.labels[one.image][one.ground_truth]
        last = one.steps.boxes_by_layer_xyxy[-1:]
        assert box_iou(last, one.ground_truth_xyxy[None]) >= 0.5
        assert abs(outputs.pred_logits[one.image, one.query, one.label].sigmoid() - one.score) < 1e-6
