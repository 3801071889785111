"""Paired effects, Holm's correction and power, against values worked out by hand and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dfine_tools.analysis.paired import (
    CONTRADICTED,
    NOT_DECIDED,
    SUPPORTED,
    conclusion,
    holm,
    paired_effect,
    power_of,
    seeds_for,
    smallest_visible,
)


def test_an_effect_worked_out_by_hand():
    effect = paired_effect([0.01, 0.03, 0.02, 0.04])
    assert effect.n == 4
    assert effect.mean == pytest.approx(0.025)
    # Squares of -0.015, 0.005, -0.005, 0.015 sum to 0.0005; over 3 and rooted.
    assert effect.std == pytest.approx(math.sqrt(0.0005 / 3))
    reach = 3.182446 * math.sqrt(0.0005 / 3) / 2  # Student's t of 3 degrees of freedom, 97.5 %
    assert (effect.low, effect.high) == pytest.approx((0.025 - reach, 0.025 + reach), rel=1e-5)
    assert effect.p == pytest.approx(0.030466, rel=1e-3)  # t = 3.872983 with 3 degrees of freedom


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0.3, 1.0, size=(12_000, 5))
    effects = [paired_effect(row) for row in draws]
    covered = np.mean([effect.low <= 0.3 <= effect.high for effect in effects])
    assert covered == pytest.approx(0.95, abs=0.01)


def test_power_is_how_often_a_simulation_finds_the_effect():
    draws = np.random.default_rng(1).normal(0.8, 1.0, size=(6_000, 8))
    found = np.mean([paired_effect(row).p < 0.05 for row in draws])
    assert power_of(0.8, 1.0, 8) == pytest.approx(found, abs=0.02)


def test_of_no_effect_the_level_is_found():
    assert power_of(0.0, 1.0, 10) == pytest.approx(0.05)


def test_the_number_of_seeds_is_the_first_that_has_the_power():
    n = seeds_for(0.5, 1.0)
    assert n == 34  # tables of the paired t-test: two-sided 5 %, 80 %, an effect of half a standard deviation
    assert power_of(0.5, 1.0, n) >= 0.8 > power_of(0.5, 1.0, n - 1)
    assert seeds_for(0.001, 1.0) is None
    assert seeds_for(0.1, 0.0) == 2


def test_the_smallest_visible_effect_has_the_power():
    assert power_of(smallest_visible(0.02, 6), 0.02, 6) == pytest.approx(0.8, abs=1e-3)
    assert smallest_visible(0.02, 2) > smallest_visible(0.02, 3)
    assert smallest_visible(0.0, 5) == 0


def test_holm_worked_out_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04; never below the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, math.nan]) == [1.0, 1.0]
    assert holm([]) == []


def test_conclusions():
    better, worse = paired_effect([0.02, 0.021, 0.019]), paired_effect([-0.02, -0.021, -0.019])
    assert conclusion(better, 0.01, 1) == conclusion(worse, 0.01, -1) == SUPPORTED
    assert conclusion(worse, 0.01, 1) == CONTRADICTED
    assert conclusion(better, 0.06, 1) == NOT_DECIDED
    assert conclusion(paired_effect([0.1]), math.nan, 1) == NOT_DECIDED


def test_equal_differences_and_too_few():
    same = paired_effect([0.01, 0.01])
    assert (same.low, same.high, same.p) == (0.01, 0.01, 0.0)
    assert paired_effect([0.0, 0.0]).p == 1.0
    one = paired_effect([0.01])
    assert one.mean == 0.01 and math.isnan(one.low) and math.isnan(one.p)
    for values in ([], [0.1, math.nan]):
        with pytest.raises(ValueError, match="finite"):
            paired_effect(values)
