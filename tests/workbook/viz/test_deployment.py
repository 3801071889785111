"""Figures about folding: what is written into them."""

from __future__ import annotations

import numpy as np
from workbook import viz

from dfine_tools.figures.annotated import annotated


def test_kernels_are_written_cell_by_cell_and_the_centre_is_told():
    large = np.arange(9.0).reshape(3, 3) / 10
    both = large.copy()
    both[1, 1] += 0.5
    figure = viz.folded_kernels({"3 x 3": large, "1 x 1": [[0.5]], "folded": both})
    assert "+0.40 plus +0.50 gives +0.90" in figure.alt_text
    written = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert [len(one) for one in written] == [9, 1, 9]
    assert written[2][4] == "+0.90" and written[2][0] == written[0][0]


def test_bars_have_the_counts_most_first():
    figure = viz.operation_counts({"trained": {"norm": 5, "conv": 9}, "deployed": {"conv": 7}})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv", "norm"]
    assert [bar.get_width() for container in axes.containers for bar in container] == [9, 5, 7, 0]
    assert "conv 9 to 7; norm 5 to 0" in figure.alt_text


def test_class_names_in_other_letters_than_ascii_are_drawn_as_they_are():
    image = np.zeros((3, 60, 90), np.uint8)

    def drawn(word):
        return annotated(image, [[10, 30, 80, 55]], [0], [word])

    for letter in "öüßéжα":
        assert (drawn(letter) != drawn("\uffff")).any(), letter  # the box that stands for a letter the font lacks
