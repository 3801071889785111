"""The sliders of the weighting function and of the edge distributions."""

from __future__ import annotations

import pytest
import torch

from dfine_lib.model.distribution import weighting_function
from dfine_tools.analysis.refinement import Refinement

pytest.importorskip("ipywidgets")
from workbook import widgets


def refinement(layers: int) -> Refinement:
    generator = torch.Generator().manual_seed(layers)
    boxes = torch.tensor([10.0, 10.0, 40.0, 30.0]) + torch.rand(layers + 1, 4, generator=generator)
    return Refinement(boxes, torch.randn(layers, 4, 33, generator=generator), weighting_function())


def test_moving_reg_scale_moves_the_drawn_curve():
    explorer = widgets.weighting_function(reg_scale=4.0)
    same = [line.get_ydata() for line in explorer.figure.axes[0].lines[:2]]
    assert (same[0] == same[1]).all()
    explorer.controls["reg_scale"].value = 8.0
    published, yours = (line.get_ydata() for line in explorer.figure.axes[0].lines[:2])
    assert abs(yours[17]) < abs(published[17])
    assert yours[31] == pytest.approx(50, abs=1e-3) == published[31]


def test_the_layer_slider_shows_that_many_layers_of_the_chosen_object():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    explorer = widgets.edge_distributions(image, {"dog": refinement(3), "cat": refinement(2)})
    assert "over 3 decoder layers" in explorer.figure.alt_text
    explorer.controls["layer"].value = 1
    assert "over 1 decoder layers" in explorer.figure.alt_text
    explorer.controls["layer"].value = 3
    explorer.controls["name"].value = "cat"
    assert "over 2 decoder layers" in explorer.figure.alt_text


def test_without_an_object_there_is_a_message():
    with pytest.raises(ValueError, match="no object"):
        widgets.edge_distributions(torch.zeros(3, 8, 8), {})
