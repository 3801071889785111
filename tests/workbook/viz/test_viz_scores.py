"""Losses with gradients, scores against IoU."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz

X = np.linspace(-4, 4, 81)


def test_where_a_loss_is_lowest_is_said():
    curves = {"square": ((X - 0.0) ** 2, 2 * X), "slope": (-X, -np.ones_like(X))}
    figure = viz.loss_and_gradient(X, curves, "a positive", target=0.5)
    assert "square is lowest at score 0.50; slope is lowest at score 0.98" in figure.alt_text
    assert np.allclose(figure.axes[1].lines[0].get_ydata(), 2 * X)


def test_a_curve_of_another_length_is_refused():
    with pytest.raises(ValueError, match="shape of the logits"):
        viz.loss_and_gradient(X, {"short": (X[1:], X)}, "a positive")


def test_the_rank_correlation_is_that_of_the_points():
    iou = np.array([0.2, 0.4, 0.6, 0.8])
    figure = viz.scores_against_iou({"good": (iou, iou**3), "bad": (iou, 1 - iou)})
    assert "good: rank correlation 1.00; bad: rank correlation -1.00" in figure.alt_text
    assert len(figure.axes) == 2


def test_scores_of_another_number_are_refused():
    with pytest.raises(ValueError, match="scores"):
        viz.scores_against_iou({"odd": ([0.1, 0.2], [0.3])})
