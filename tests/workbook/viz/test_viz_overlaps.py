"""Overlaps: the numbers in the pictures, their words, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_two_boxes_name_their_overlap_and_shade_the_intersection():
    figure = viz.two_boxes({"near": ([10, 20, 50, 60], [30, 30, 70, 60]), "apart": ([0, 0, 10, 10], [20, 0, 30, 10])})
    assert "near: IoU 0.27, GIoU +0.19" in figure.alt_text and "apart: IoU 0.00, GIoU -0.33" in figure.alt_text
    shaded = [p for p in figure.axes[0].patches if p.get_hatch()]
    assert [p.get_width() * p.get_height() for p in shaded] == [600]
    assert [p.get_width() * p.get_height() for p in figure.axes[1].patches if p.get_hatch()] == [0]


def test_a_slide_draws_both_curves_and_says_where_they_end():
    shifts = np.array([0.0, 10.0, 20.0])
    figure = viz.overlap_by_shift(shifts, [1, 0, 0], [1, 0, -1 / 3], side=10)
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(drawn["GIoU"]) == [1, 0, -1 / 3] and "ends at -0.33" in figure.alt_text


def test_sizes_are_drawn_for_every_shift():
    sides = np.array([10.0, 100.0])
    figure = viz.iou_by_side(sides, {2: (sides - 2) / (sides + 2)})
    assert "2 px off: IoU 0.67 at 10 px, 0.96 at 100 px" in figure.alt_text


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError, match="four numbers"):
        viz.two_boxes({"bad": ([0, 0, 1], [0, 0, 1, 1])})
    with pytest.raises(ValueError, match="one IoU and one GIoU"):
        viz.overlap_by_shift([0, 1], [1], [1], side=1)
    with pytest.raises(ValueError, match="one IoU a side"):
        viz.iou_by_side([1, 2], {1: [0.5]})
