"""Shares of initial weights, averages and rates along a run."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_shares_and_finds_are_said():
    figure = viz.initial_weights_left({"long": 0.9 ** np.arange(1, 4), "none": np.zeros(3)}, {0.0: 9, 0.5: 2}, 10)
    assert "long: 73 % after 3 steps; none: 0 % after 3 steps" in figure.alt_text
    assert "of 10: 9 with 0%, 2 with 50%" in figure.alt_text
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), [90, 81, 72.9])


def test_the_mean_of_the_last_fifth_is_said():
    raw = np.r_[np.ones(8), 0.5, 0.3]
    assert "raw 0.4; average 1" in viz.averages_over_run({"raw": raw, "average": np.ones(10)}, "error").alt_text


def test_an_error_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        viz.averages_over_run({"raw": [1.0, 0.0]}, "error")


def test_a_schedule_says_when_it_is_at_full_rate():
    figure = viz.rate_schedules({"warm": [0.5, 1.0, 1.0, 0.25]})
    assert "warm: highest from step 2, 25% at the end" in figure.alt_text
