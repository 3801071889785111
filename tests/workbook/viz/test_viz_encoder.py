from __future__ import annotations

import numpy as np
import pytest
from workbook import viz

from dfine_lib.model.hybrid_encoder import position_embedding


def test_a_cell_is_most_like_itself():
    figure = viz.position_figure(position_embedding(5, 7, 16)[0], 5, 7, (2, 4))
    alike = figure.axes[1].images[0].get_array()
    assert alike.shape == (5, 7) and np.unravel_index(alike.argmax(), alike.shape) == (2, 4)
    assert "35 tokens, 16 numbers each" in figure.alt_text
    with pytest.raises(ValueError, match="35 tokens, the table 36"):
        viz.position_figure(np.zeros((36, 16)), 5, 7, (0, 0))


def test_cells_without_influence_are_counted_and_left_white():
    some = np.array([[0.0, 1.0], [0.0, 1e-9]])
    figure = viz.cell_influence({"without": {"fine": some}, "with": {"fine": some + 1}})
    assert "without: fine 50 %; with: fine 100 %" in figure.alt_text
    assert np.ma.masked_invalid(figure.axes[0].images[0].get_array()).count() == 2
    with pytest.raises(ValueError, match="every variant"):
        viz.cell_influence({"without": {"fine": some}, "with": {"coarse": some}})
