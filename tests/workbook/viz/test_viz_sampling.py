"""Where queries look: the numbers in the pictures, and shapes that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz

LEVELS = (1, 2)  # points of the two levels
IMAGE = np.full((3, 40, 40), 0.5)
BOX = [10, 10, 30, 30]


def test_a_reading_in_the_middle_takes_a_quarter_of_each_cell():
    figure = viz.bilinear_reading([[1, 2], [3, 4]], (0.5, 0.5))
    assert figure.alt_text.endswith("0.25 of 1, 0.25 of 2, 0.25 of 3, 0.25 of 4; in all 2.5.")
    assert [bar.get_width() for bar in figure.axes[1].patches] == pytest.approx([0.25] * 4)


def test_outside_the_map_there_is_nothing_to_read():
    assert viz.bilinear_reading([[8, 2], [3, 4]], (0, 0)).alt_text.endswith("0.25 of 8; in all 2.")
    with pytest.raises(ValueError, match="location"):
        viz.bilinear_reading([[1, 2]], (1.5, 0))


def test_starting_locations_stand_on_their_levels():
    places = np.array([[[0.5, 0.0], [0.25, 0.0], [1.0, 0.0]], [[0.0, -0.5], [0.0, -0.25], [0.0, -1.0]]])
    figure = viz.starting_locations(places, LEVELS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "level 1: 1 points a head",
        "level 2: 2 points a head",
    ]
    assert "of 2 heads" in figure.alt_text and "outermost lies 1.00" in figure.alt_text
    with pytest.raises(ValueError, match="locations"):
        viz.starting_locations(places, (1, 1))


def test_weights_are_summed_by_level_for_all_heads_or_one():
    places = np.full((2, 3, 2), 0.5)
    weights = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    both = viz.sampling_points(IMAGE, places, weights, LEVELS, BOX, strides=(8, 16), title="a dog")
    assert "all 2 heads" in both.alt_text and both.alt_text.endswith("30 %, 70 %.")
    one = viz.sampling_points(IMAGE, places, weights, LEVELS, BOX, BOX, head=1)
    assert "head 1" in one.alt_text and one.alt_text.endswith("10 %, 90 %.")
    assert len(both.axes[0].collections) == 2 and len(one.axes[0].collections) == 1
    assert one.axes[0].collections[0].get_offsets()[0].tolist() == [20, 20]  # pixels
    with pytest.raises(ValueError, match="do not fit"):
        viz.sampling_points(IMAGE, places, weights[:1], LEVELS, BOX)


def test_the_weight_inside_the_box_is_told_for_every_layer():
    places = np.zeros((2, 5, 1, 2, 2))
    places[1, :, :, 1] = 3.0  # layer 2: the second point lies outside
    weights = np.full((2, 5, 1, 2), 0.5)
    figure = viz.heads_by_layer(places, weights, [[1.0, 0.0]])
    assert "layer 1 100 %, layer 2 50 %" in figure.alt_text and "of 1 heads for 5 objects" in figure.alt_text
    with pytest.raises(ValueError, match="do not fit"):
        viz.heads_by_layer(places[0], weights[0])
