"""The controls of the sampling places: object, decoder layer, head."""

from __future__ import annotations

import pytest
import torch
from workbook.sampling import LayerSampling

from dfine_tools.analysis.refinement import FoundObject

pytest.importorskip("ipywidgets")
from workbook import widgets

IMAGES = torch.zeros(1, 3, 64, 64)


def layer(first: float) -> LayerSampling:
    """Two heads, one point on each of two levels; the first level has this share of the weight."""
    weights = torch.tensor([[first, 1 - first], [first, 1 - first]])
    boxes = torch.tensor([0.5, 0.5, 0.25, 0.25])
    return LayerSampling(torch.full((1, 1, 2, 2, 2), 0.5), weights[None, None], boxes[None, None], (1, 1))


def test_layer_and_head_are_those_chosen():
    one = FoundObject(0, 0, 0, 3, 0.9, torch.tensor([20.0, 20, 40, 40]), None)
    explorer = widgets.sampling_points(IMAGES, [layer(0.25), layer(0.75)], {"star": one}, strides=(8, 16))
    assert "all 2 heads" in explorer.figure.alt_text and explorer.figure.alt_text.endswith("75 %, 25 %.")
    explorer.controls["layer"].value = 1
    assert explorer.figure.alt_text.endswith("25 %, 75 %.")
    explorer.controls["head"].value = 1
    assert "head 1" in explorer.figure.alt_text
    assert "star, decoder layer 1 of 2" in explorer.figure.get_suptitle()


def test_without_an_object_there_is_a_message():
    with pytest.raises(ValueError, match="no object"):
        widgets.sampling_points(IMAGES, [layer(0.5)], {})
