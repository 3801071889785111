"""The gallery's choice of condition and object."""

from __future__ import annotations

import pytest
import torch

from dfine_lib.model.distribution import weighting_function
from dfine_tools.analysis.refinement import FoundObject, Refinement

pytest.importorskip("ipywidgets")
from workbook import widgets


def found(image: int) -> FoundObject:
    generator = torch.Generator().manual_seed(image)
    boxes = torch.tensor([10.0, 10.0, 40.0, 30.0]) + torch.rand(3, 4, generator=generator)
    steps = Refinement(boxes, torch.randn(2, 4, 33, generator=generator), weighting_function())
    return FoundObject(image, 0, 0, 0, 0.9, boxes[-1], steps)


def test_condition_and_place_choose_the_object():
    objects = {"sharp": [found(0), found(1)], "dark": [found(2)]}
    explorer = widgets.distribution_gallery(torch.zeros(3, 3, 64, 64), objects, position=1.0)
    assert "sharp, image 1" in explorer.figure.alt_text
    explorer.controls["position"].value = 0.0
    assert "sharp, image 0" in explorer.figure.alt_text
    explorer.controls["condition"].value = "dark"
    assert "dark, image 2" in explorer.figure.alt_text


def test_a_condition_without_objects_is_refused():
    with pytest.raises(ValueError, match="object"):
        widgets.distribution_gallery(torch.zeros(1, 3, 8, 8), {"sharp": []})
