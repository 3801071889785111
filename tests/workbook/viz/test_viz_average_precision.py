"""Average precision in pictures: the numbers drawn are the numbers given."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_matched_boxes_draws_objects_and_detections_and_counts_the_right_ones():
    truths, boxes = [[(20, 20, 60, 60)], [(0, 0, 9, 9)]], [[(22, 20, 62, 60), (25, 20, 65, 60)], []]
    figure = viz.matched_boxes(truths, boxes, [["0.9", "0.8"], []], [[True, False], []], (160, 120))
    assert len(figure.axes[0].patches) == 3 and len(figure.axes[1].patches) == 1
    assert "image 1: 1 objects, 1 of 2 detections true positives" in figure.alt_text
    with pytest.raises(ValueError, match="same images"):
        viz.matched_boxes(truths, boxes, [[]], [[True, False], []], (160, 120))


def test_precision_recall_draws_what_it_is_given():
    interpolated = np.where(np.arange(101) <= 50, 1.0, 0.5)
    figure = viz.precision_recall({"IoU 0.50": ([0.5, 0.5, 1.0], [1, 0.5, 0.5], interpolated)})
    measured = next(line for line in figure.axes[0].lines if line.get_label() == "measured")
    assert measured.get_xdata() == pytest.approx([0.5, 0.5, 1.0])
    assert f"AP {interpolated.mean():.3f}" in figure.alt_text and len(figure.alt_text) > 40
    with pytest.raises(ValueError, match="101"):
        viz.precision_recall({"IoU 0.50": ([0.5], [1], [1.0])})


def test_ap_by_threshold_tells_the_mean_and_refuses_another_length():
    figure = viz.ap_by_threshold([0.5, 0.75], {"last layer": [0.8, 0.6], "initial boxes": [0.7, 0.3]})
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.8, 0.6])
    assert "last layer: 0.80 to 0.60, mean 0.700" in figure.alt_text
    with pytest.raises(ValueError, match="thresholds"):
        viz.ap_by_threshold([0.5, 0.75], {"last layer": [0.8]})
