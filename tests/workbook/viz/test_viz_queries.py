"""Where queries come from: the numbers in the pictures, and inputs that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz

from dfine_lib.model.denoising import denoising_mask

IMAGE = np.full((3, 32, 32), 0.5)


def test_chosen_tokens_are_counted_on_their_level():
    levels = [np.linspace(0, 1, 16).reshape(4, 4), np.zeros((2, 2))]
    figure = viz.chosen_tokens(IMAGE, levels, [0, 15, 16], [[4, 4, 12, 12]], title="image 3")
    assert figure.alt_text == "3 tokens chosen as queries: 2 of 16 on level 1, 1 of 4 on level 2."
    cells = [patch for patch in figure.axes[0].patches if patch.get_width() == 8 and patch.get_y() > 20]
    assert [patch.get_xy() for patch in cells] == [(23.5, 23.5)]  # token 15: last row, last column
    with pytest.raises(ValueError, match="0 to 19"):
        viz.chosen_tokens(IMAGE, levels, [20])


def test_the_overlap_of_noised_boxes_is_told():
    truth = [10, 10, 20, 20]
    figure = viz.noised_boxes(IMAGE, truth, [truth, [10, 10, 20, 15]], [[15, 10, 25, 20]])
    assert figure.alt_text.endswith("positives 0.75, negatives 0.33.")


def test_the_mask_says_who_sees_whom():
    figure = viz.attention_mask(denoising_mask(1, 2, 3), [("group 1", 2), ("group 2", 2), ("matching", 3)])
    assert "group 1 sees group 1, matching; group 2 sees group 2, matching; matching sees matching" in figure.alt_text
    with pytest.raises(ValueError, match="do not fit"):
        viz.attention_mask(np.ones((3, 3)), [("all", 4)])
