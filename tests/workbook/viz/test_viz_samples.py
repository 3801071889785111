"""Pictures with boxes, packed arrays and batch sides: what they show, their words, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_pictures_draw_every_box_and_skip_those_without_numbers():
    boxes = np.array([[1, 1, 5, 5], [np.nan] * 4, [2, 2, 8, 6]])
    figure = viz.images_with_boxes(
        {"before": (np.zeros((3, 10, 20)), boxes), "after": (np.ones((3, 10, 10)), boxes[:1])},
        lost={"after": boxes[2:]},
    )
    assert "before: 20 × 10 px, 2 boxes; after: 10 × 10 px, 1 boxes" in figure.alt_text
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "3"]
    assert len(figure.axes[1].patches) == 3  # frame, lost, kept


def test_packed_boxes_show_labels_and_offsets_and_name_the_empty_image():
    figure = viz.packed_arrays([0, 2, 2, 3], [4, 0, 7], ["a", "b", "c"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"4", "0", "7", "b: none", "2\n[1], [2]"} <= set(texts)
    assert "a 2, b 0, c 1" in figure.alt_text


def test_sides_are_shown_as_shares():
    figure = viz.batch_sides([64, 96, 96, 128], base=96)
    bars = [patch.get_height() for patch in figure.axes[0].patches]
    assert bars == [25, 50, 25] and "96 px 50%" in figure.alt_text


def test_wrong_input_is_told():
    with pytest.raises(ValueError, match="no image"):
        viz.images_with_boxes({})
    with pytest.raises(ValueError, match=r"boxes must be \[G, 4\]"):
        viz.images_with_boxes({"bad": (np.zeros((3, 4, 4)), np.zeros((2, 3)))})
    with pytest.raises(ValueError, match="3 offsets for 1 images"):
        viz.packed_arrays([0, 1, 2], [1, 1], ["a"])
    with pytest.raises(ValueError, match="no sides"):
        viz.batch_sides([], base=96)
