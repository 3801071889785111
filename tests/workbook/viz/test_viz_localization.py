"""Soft labels, a distribution that learns, student and teacher, queries by weight: the numbers in the pictures."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz

from dfine_lib.model.distribution import weighting_function

W = weighting_function().numpy()


def test_the_soft_label_stands_on_two_bins_and_averages_to_the_offset():
    offset = 0.25 * W[20] + 0.75 * W[21]
    figure = viz.soft_label(W, offset)
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches])
    assert heights.nonzero()[0].tolist() == [20, 21]
    assert heights @ W == pytest.approx(offset, abs=1e-6)
    assert "bin 20 has 0.25, bin 21 has 0.75" in figure.alt_text


def test_an_offset_beyond_the_last_bin_is_the_last_bin():
    assert "bin 32 has 1.00" in viz.soft_label(W, 3.0).alt_text
    assert "bin 0 has 1.00" in viz.soft_label(W, -3.0).alt_text


def test_steps_are_named_with_their_means():
    even, peak = np.full(33, 1 / 33), np.eye(33)[20]
    figure = viz.distribution_by_step(W, {0: even, 50: peak}, offset=0.1)
    assert f"step 50 {100 * W[20]:+.1f} %" in figure.alt_text and "step 0 +0.0 %" in figure.alt_text.replace("-0", "+0")
    assert len(figure.axes[0].lines) == 4


def test_a_temperature_brings_teacher_and_student_closer():
    teacher, student = 6 * np.eye(33)[16], 6 * np.eye(33)[17]
    titles = [axes.get_title(loc="left") for axes in viz.softened_distributions(W, teacher, student, 5.0).axes]
    plain, soft = (float(title.split("KL ")[1].split(",")[0]) for title in titles)
    assert plain > 4 > 0.1 > soft > 0
    same = viz.softened_distributions(W, teacher, teacher, 2.0)
    assert same.alt_text.count("0.000 apart") == 2


def test_queries_are_counted_by_kind():
    boxes = np.array([[0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 8, 8]])
    figure = viz.query_weights(np.zeros((16, 16, 3)), boxes, [0.9, 0.1, 0.02], [True, False, False])
    assert "1 matched with weights from 0.90 to 0.90; 2 unmatched with weights from 0.02 to 0.10" in figure.alt_text
    assert [len(axes.patches) for axes in figure.axes[:2]] == [1, 2]
