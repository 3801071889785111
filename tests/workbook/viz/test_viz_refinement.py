"""Many boxes through the layers: the medians drawn are the medians given."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_the_median_and_the_share_that_improved_are_drawn_and_told():
    ious = np.array([[0.5, 0.7, 0.9], [0.6, 0.6, 0.5], [0.4, 0.8, 0.8], [0.3, 0.5, 0.7]])
    figure = viz.iou_by_layer(ious)
    course, gain = figure.axes
    median = next(line for line in course.lines if line.get_label() == "median")
    assert median.get_ydata() == pytest.approx([0.45, 0.65, 0.75])
    assert gain.get_title(loc="left") == "75 % of boxes ended better"
    assert "of 4 objects" in figure.alt_text and "initial 0.450" in figure.alt_text


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="objects"):
        viz.iou_by_layer([0.5, 0.6])
