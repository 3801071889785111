"""Distributions of the first and last layer: what is drawn is what the logits say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from workbook import viz
from workbook.viz.edges import std_px

from dfine_lib.model.distribution import weighting_function

W = weighting_function()


def steps_of(first: int, last: int) -> SimpleNamespace:
    """A box of 40 x 20 px; half of each edge's probability lies on the named bin, half on bin 16."""
    logits = torch.full((2, 4, 33), -30.0)
    logits[:, :, 16] = 0.0
    logits[0, :, first], logits[1, :, last] = 0.0, 0.0
    boxes = torch.tensor([10.0, 10.0, 50.0, 30.0]).repeat(3, 1)
    return SimpleNamespace(boxes_by_layer_xyxy=boxes, corner_logits_by_layer=logits, bin_offsets=W)


def test_the_spread_is_half_the_distance_of_two_bins_in_pixels():
    std = std_px(steps_of(20, 18))
    assert std.shape == (2, 4)
    assert std[0] == pytest.approx(0.5 * float(W[20]) * np.array([40, 20, 40, 20]), rel=1e-4)


def test_the_weighted_bars_add_up_to_the_offset():
    figure = viz.first_and_last_layer(torch.zeros(3, 64, 64), steps_of(20, 18), [10, 10, 50, 30], "a star")
    assert f"left {50 * W[20]:+.1f} to {50 * W[18]:+.1f} %" in figure.alt_text
    weighted = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("sum")]
    bars = weighted[0].patches[0].get_data().values
    assert bars.sum() == pytest.approx(50 * float(W[20]), rel=1e-4)


def test_the_gallery_has_a_row_for_each_object():
    figure = viz.distribution_gallery(
        [torch.zeros(3, 64, 64)] * 2, [steps_of(20, 18)] * 2, [[10, 10, 50, 30]] * 2, ["one", "two"]
    )
    assert len(figure.axes) == 10 and "one: " in figure.alt_text and "two: " in figure.alt_text


def test_what_does_not_fit_is_refused():
    wrong = steps_of(20, 18)
    wrong.bin_offsets = W[:-1]
    with pytest.raises(ValueError, match="fit"):
        viz.first_and_last_layer(torch.zeros(3, 64, 64), wrong, [10, 10, 50, 30])
    with pytest.raises(ValueError, match="each object"):
        viz.distribution_gallery([], [], [], [])
    with pytest.raises(ValueError, match="conditions"):
        viz.means_by_condition({"px": {"a": {"sharp": (1, 0, 2)}, "b": {"dark": (1, 0, 2)}}})


def test_means_are_drawn_and_told():
    figure = viz.means_by_condition({"std, px": {"first": {"sharp": (1.0, 0.5, 2.0), "dark": (3.0, 2.0, 4.0)}}})
    assert "std, px, first: sharp 1.00, dark 3.00" in figure.alt_text
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([1.0, 3.0])
