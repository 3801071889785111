"""The slider over the score that detections need."""

from __future__ import annotations

import pytest
import torch

from dfine_lib.evaluate import Detections

pytest.importorskip("ipywidgets")
from workbook import widgets


def test_a_higher_score_shows_fewer_detections():
    boxes = torch.tensor([[2.0, 2.0, 20.0, 20.0], [5.0, 5.0, 30.0, 30.0]])
    found = Detections(torch.tensor([0, 1]), boxes, torch.tensor([0.9, 0.3]))
    truth = {"labels": torch.tensor([0]), "boxes_xyxy": boxes[:1]}
    explorer = widgets.score_threshold([torch.zeros(3, 32, 32)], [found], [truth], ["a", "b"], score=0.2)
    assert "1 there, 2 found" in explorer.figure.alt_text
    explorer.controls["score"].value = 0.5
    assert "1 there, 1 found" in explorer.figure.alt_text
    explorer.controls["score"].value = 0.95
    assert "1 there, 0 found" in explorer.figure.alt_text
