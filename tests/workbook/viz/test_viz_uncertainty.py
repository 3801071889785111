"""Spread against blur, correlations with intervals, coverage: the numbers in the pictures."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_bands_of_blur_have_the_median_of_their_edges():
    blur = np.repeat([[0.5], [3.0]], 10, axis=0) * np.ones((1, 4))
    figure = viz.std_by_blur(blur, 2 * blur)
    assert len(figure.axes) == 4
    assert figure.alt_text.count("1.00 px at blur 0.5 to 6.00 at 3.0") == 4


def test_edges_that_are_not_a_number_are_left_out():
    blur = np.full((12, 4), 0.5)
    std = blur.copy()
    std[6:, 0] = np.nan
    assert len(viz.std_by_blur(blur, std).axes[0].collections[0].get_offsets()) == 6


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[M, 4\]"):
        viz.std_by_blur(np.zeros((3, 4)), np.zeros((3, 3)))


def test_correlations_are_named_with_their_intervals():
    figure = viz.correlations({"left": (0.2, 0.1, 0.3), "top": (0.0, -0.1, 0.1)})
    assert "left +0.20 (+0.10 to +0.30)" in figure.alt_text and "top +0.00" in figure.alt_text
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["left", "top"]


def test_coverage_stands_beside_the_normal_distribution():
    figure = viz.coverage({"all": [0.5, 0.9]}, [1, 2])
    assert "all: 50 % within 1, 90 % within 2" in figure.alt_text
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [68.27, 95.45], atol=0.01)
