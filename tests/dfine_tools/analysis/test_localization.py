"""Class-agnostic AP and edge errors of boxes that were placed by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dfine_lib.boxes import box_xyxy_to_cxcywh
from dfine_lib.model.outputs import DecoderOutput, DFINEOutput
from dfine_tools.analysis.localization import localization

SIZE = 100
TRUE = [[10.0, 20.0, 20.0, 40.0], [60.0, 50.0, 30.0, 30.0]]  # xywh pixels


class Placed(nn.Module):
    """A model that answers the boxes it was given, layer by layer: `[L, Q, 4]` xyxy pixels."""

    def __init__(self, boxes_xyxy: torch.Tensor, logits: torch.Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_decoder_layers=len(boxes_xyxy))
        self.boxes, self.logits = box_xyxy_to_cxcywh(boxes_xyxy / SIZE), logits

    def forward(self, images: torch.Tensor, keep_layers: bool) -> DFINEOutput:
        logits = self.logits.expand(len(self.boxes), *self.logits.shape)[:, None]  # [L, 1, Q, C]
        decoder = DecoderOutput(logits, self.boxes[:, None], None, None)
        return DFINEOutput(logits[-1], self.boxes[-1][None], decoder, None, None)


def measured(tmp_path, boxes, logits, **keys):
    annotations = [
        {"id": i, "image_id": 7, "category_id": 1 + i, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        | {key: values[i] for key, values in keys.items()}
        for i, box in enumerate(TRUE)
    ]
    content = {"images": [{"id": 7, "width": SIZE, "height": SIZE, "file_name": "a.png"}], "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    batch = SimpleNamespace(
        images=torch.zeros(1, 3, SIZE, SIZE), image_ids=torch.tensor([7]), sizes_wh=torch.tensor([[SIZE, SIZE]])
    )
    return localization(Placed(torch.tensor(boxes), torch.tensor(logits)), [batch], file)


EXACT = [[10.0, 20.0, 30.0, 60.0], [60.0, 50.0, 90.0, 80.0]]
WRONG_CLASS = [[-4.0, 2.0], [3.0, -4.0]]  # the first object is class 0, its query says class 1, and so on


def test_exact_boxes_of_the_wrong_class_have_an_ap_of_1(tmp_path):
    (row,) = measured(tmp_path, [EXACT], WRONG_CLASS)
    assert (row["ap75"], row["ap90"], row["ap95"], row["matched"]) == (1, 1, 1, 1)
    assert row["edge_px"] == pytest.approx(0, abs=1e-4)


def test_edges_that_are_off_by_known_amounts(tmp_path):
    off = [[[11.0, 22.0, 29.0, 56.0], [60.0, 50.0, 90.0, 77.0]], EXACT]
    first, last = measured(tmp_path, off, WRONG_CLASS)
    # Errors 1, 2, 1, 4 and 0, 0, 0, 3: the median of 0 0 0 1 1 2 3 4 is 1.
    assert first["edge_px"] == pytest.approx(1, abs=1e-3)
    # In per cent of the sides 20, 40, 20, 40 and 30: 5, 5, 5, 10 and 0, 0, 0, 10; the median is 5.
    assert first["edge_percent"] == pytest.approx(5, abs=1e-3)
    # IoU 18 * 34 / 800 = 0.765 and 30 * 27 / 900 = 0.9: both count at 0.75; at 0.90 the second is on the threshold.
    assert first["ap75"] == 1 and first["ap95"] == 0
    assert last["edge_px"] == pytest.approx(0, abs=1e-4)


def test_a_query_far_from_every_object_matches_none(tmp_path):
    (row,) = measured(tmp_path, [[EXACT[0], [0.0, 0.0, 5.0, 5.0]]], WRONG_CLASS)
    assert row["matched"] == 0.5
    # One of two objects is found, below a false positive of a higher score: precision 1/2 up to recall 1/2.
    assert row["ap75"] == pytest.approx(51 / 101 * 0.5)


def test_of_two_queries_on_an_object_the_higher_score_counts(tmp_path):
    boxes = [[EXACT[0], EXACT[1], [12.0, 22.0, 32.0, 62.0]]]  # the third query is 2 px off at four edges of eight
    for score, error in ((2.5, 1.0), (1.5, 0.0)):
        (row,) = measured(tmp_path, boxes, [[-4.0, 2.0], [3.0, -4.0], [score, 0.0]])
        assert row["matched"] == 1 and row["edge_px"] == pytest.approx(error, abs=1e-4)


def test_edges_are_sorted_by_their_blur_and_hidden_ones_are_left_out(tmp_path):
    off = [[[11.0, 22.0, 27.0, 56.0], [60.0, 50.0, 90.0, 77.0]]]
    (row,) = measured(
        tmp_path, off, WRONG_CLASS,
        edge_blur_px=[[0.5, 0.5, 1.0, 3.0], [0.5, 0.5, 0.5, 3.0]],
        edge_outside=[[0, 0, 0, 0], [1, 1, 0, 0]],
        edge_occluded=[[0, 0, 0, 0], [0, 0, 0.5, 0.4]],
    )  # fmt: skip
    assert row["edge_px_sharp"] == pytest.approx(1.5, abs=1e-3)  # 1 and 2; the exact ones of the second are hidden
    assert row["edge_px_soft"] == pytest.approx(3, abs=1e-3)
    assert row["edge_px_blurred"] == pytest.approx(3.5, abs=1e-3)  # 4 and 3
