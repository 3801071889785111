"""The sliders of the soft label and of the temperature."""

from __future__ import annotations

import pytest
import torch

from dfine_lib.model.distribution import weighting_function

pytest.importorskip("ipywidgets")
from workbook import widgets

W = weighting_function()


def test_the_soft_label_follows_the_edge():
    explorer = widgets.soft_label(W, offset=0.01)
    assert "bin 16 has" in explorer.figure.alt_text
    explorer.controls["offset"].value = -0.55
    assert "bin 0 has" in explorer.figure.alt_text


def test_a_higher_temperature_flattens():
    teacher, student = torch.eye(33)[10] * 5, torch.eye(33)[20] * 5
    explorer = widgets.distillation_temperature(W, teacher, student, temperature=2.0)
    before = explorer.figure.alt_text
    explorer.controls["temperature"].value = 20.0
    assert "T = 20" in explorer.figure.alt_text and explorer.figure.alt_text != before
