from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_the_channels_that_vary_most_are_shown():
    maps = np.zeros((4, 6, 8))
    maps[2, 0, 0], maps[1, 3, 3] = 9.0, 5.0
    figure = viz.strongest_channels(np.zeros((3, 12, 16)), {"stage 1": maps}, count=2)
    assert figure.axes[0].images[0].get_array().shape == (12, 16, 3)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["", "channel 2", "channel 1"]
    assert "stage 1, 4 channels of 8 by 6 cells" in figure.alt_text
    with pytest.raises(ValueError, match="at least 5 channels"):
        viz.strongest_channels(np.zeros((3, 12, 16)), {"stage 1": maps})


def test_squares_are_centred_and_told():
    figure = viz.receptive_fields({"stem": np.ones((40, 40))}, {"stem": 11}, {"stem": 7})
    outer, inner = figure.axes[0].patches
    assert (outer.get_x(), outer.get_width()) == (14.5, 11) and inner.get_width() == 7
    assert "stem 11 px, 90 % of the gradient in 7 px" in figure.alt_text
    with pytest.raises(ValueError, match="steps differ"):
        viz.receptive_fields({"stem": np.ones((4, 4))}, {"stage": 3}, {"stem": 3})
