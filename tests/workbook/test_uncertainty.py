"""Spreads of edges, rank correlations and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from workbook.uncertainty import bootstrap_interval, edge_readings, rank_correlation

from dfine_lib.model.distribution import weighting_function
from dfine_tools.analysis.refinement import FoundObject, Refinement

W = weighting_function()


def found(logits: torch.Tensor) -> FoundObject:
    boxes = torch.tensor([[40.0, 30.0, 100.0, 70.0], [41.0, 30.0, 100.0, 72.0]])
    truth = torch.tensor([40.0, 30.0, 101.0, 70.0])
    return FoundObject(3, 0, 0, 0, 0.9, truth, Refinement(boxes, logits[None], W))


def test_two_bins_with_half_each_spread_by_half_their_distance():
    logits = torch.full((4, 33), -1e4)
    logits[:, [20, 24]] = 0.0
    readings = edge_readings([found(logits)])
    half = float(W[24] - W[20]) / 2
    np.testing.assert_allclose(readings.std_px[0], [60 * half, 40 * half] * 2, rtol=1e-5)
    np.testing.assert_allclose(readings.error_px[0], [1, 0, 1, 2], atol=1e-5)
    np.testing.assert_allclose(readings.side_px[0], [60, 40, 60, 40], atol=1e-4)
    assert readings.image.tolist() == [3]


def test_a_sure_edge_has_no_spread():
    logits = torch.full((4, 33), -1e4)
    logits[:, 20] = 0.0
    assert edge_readings([found(logits)]).std_px.max() < 1e-5


def test_nothing_found_is_said():
    with pytest.raises(ValueError, match="no object was found"):
        edge_readings([])


def test_it_is_spearmans_with_and_without_ties():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=200), generator.normal(size=200)
    assert rank_correlation(x, x**3) == pytest.approx(1.0)
    assert rank_correlation(x, -np.exp(x)) == pytest.approx(-1.0)
    assert rank_correlation(x, x + y) == pytest.approx(spearmanr(x, x + y)[0])
    coarse = np.round(x)
    assert rank_correlation(coarse, y) == pytest.approx(spearmanr(coarse, y)[0])


def test_a_common_cause_is_taken_out():
    generator = np.random.default_rng(1)
    size = generator.normal(size=4000)
    x, y = size + 0.5 * generator.normal(size=4000), size + 0.5 * generator.normal(size=4000)
    assert rank_correlation(x, y) > 0.7
    assert abs(rank_correlation(x, y, given=size)) < 0.06


def test_a_constant_has_no_correlation():
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
    assert np.isnan(rank_correlation(np.arange(5.0), np.array([2.0, 1, 4, 3, 5]), given=np.arange(5.0)))


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="as many"):
        rank_correlation(np.ones(5), np.ones(4))


def test_the_interval_of_a_mean_is_that_of_the_textbook():
    values = np.random.default_rng(2).normal(size=400)
    low, high = bootstrap_interval(lambda i: values[i].mean(), np.arange(400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.12)
    assert low < values.mean() < high


def test_values_that_go_along_within_an_image_widen_it():
    own = np.random.default_rng(3).normal(size=50)
    values, image = np.repeat(own, 8), np.repeat(np.arange(50), 8)
    by_image = bootstrap_interval(lambda i: values[i].mean(), image)
    by_value = bootstrap_interval(lambda i: values[i].mean(), np.arange(400))
    assert by_image[1] - by_image[0] > 2 * (by_value[1] - by_value[0])


def test_one_image_gives_no_interval():
    with pytest.raises(ValueError, match="two images"):
        bootstrap_interval(lambda i: 0.0, np.zeros(5))
