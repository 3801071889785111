"""Costs with the chosen pairs, and matched queries by layer."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz

COST = np.array([[0.1, 0.2, 3.0], [0.3, 2.0, 4.0]])


def test_costs_are_summed_for_every_way_to_choose():
    figure = viz.matching_costs(COST, {"greedy": [0, 1], "best": [1, 0]}, ["a", "b"])
    assert "greedy gives the boxes queries [0, 1], sum 2.10; best gives the boxes queries [1, 0], sum 0.50" in (
        figure.alt_text
    )
    assert [len(axes.patches) for axes in figure.axes] == [2, 2]


def test_a_query_chosen_twice_is_refused():
    with pytest.raises(ValueError, match="different"):
        viz.matching_costs(COST, {"both": [0, 0]}, ["a", "b"])


def test_queries_that_change_are_marked_and_listed():
    truths = np.array([[2, 2, 8, 8], [4, 4, 14, 14]])
    boxes = np.stack([truths, truths + 1, truths])
    figure = viz.matched_queries(
        np.zeros((16, 16, 3)), truths, ["disc", "star"], boxes, [[5, 7], [5, 9], [5, 9]], ["a", "b", "c"], 0,
        kept=[[5], [7, 9]],
    )  # fmt: skip
    assert "disc: 5, 5, 5; star: 7, 9, 9" in figure.alt_text and "(a is drawn)" in figure.alt_text
    words = [text.get_text() for text in figure.axes[1].texts]
    assert "7, 9" in words and [t.get_weight() for t in figure.axes[1].texts if t.get_text() == "7"] == ["bold"]


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="layer must be 0 to 0"):
        viz.matched_queries(np.zeros((8, 8, 3)), [[1, 1, 4, 4]], ["disc"], [[[1, 1, 4, 4]]], [[0]], ["a"], 1)
