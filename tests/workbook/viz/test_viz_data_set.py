"""Figures of a data set: what they show, their words, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_classes_stand_most_first_with_a_bar_for_each_split():
    figure = viz.boxes_by_class({"train": [2, 9, 0], "val": [1, 3, 5]}, ["cat", "dog", "owl"])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat", "owl"]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[9, 2, 0], [3, 1, 5]]
    assert "train: dog 9, cat 2, owl 0" in figure.alt_text


def test_of_many_classes_the_rare_ones_are_counted_in_the_title():
    figure = viz.boxes_by_class({"train": range(40)}, [str(i) for i in range(40)], most=30)
    assert len(figure.axes[0].get_yticklabels()) == 30
    assert "10 rarer ones left out" in figure.axes[0].get_title("left")


def test_sizes_are_told_with_their_median_and_what_lies_below_the_marks():
    figure = viz.object_sizes({"train": [2, 8, 8, 64], "val": []}, image_size=64, marks_px={"vanishes": 4})
    assert "train: median 8 px, 25.0% below 4 px" in figure.alt_text
    assert "val" not in figure.alt_text


def test_the_map_tells_how_much_lies_in_the_middle():
    density = np.zeros((4, 4))
    density[1, 1], density[0, 0] = 3, 1
    assert "train: 75% of the centres in the middle" in viz.where_objects_lie({"train": density}).alt_text


def test_annotated_pictures_draw_every_box_with_its_class():
    image, boxes = np.zeros((3, 20, 30), np.uint8), [[1, 1, 9, 9], [5, 5, 25, 15]]
    figure = viz.annotated_images({"a.jpg": (image, boxes, [1, 0]), "b.jpg": (image, [], [])}, ["cat", "dog"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["dog", "cat"]
    assert [len(axes.patches) for axes in figure.axes] == [2, 0]
    assert "a.jpg: 2 boxes; b.jpg: 0 boxes" in figure.alt_text


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="2 names"):
        viz.boxes_by_class({"train": [1]}, ["a", "b"])
    with pytest.raises(ValueError, match="no object"):
        viz.object_sizes({"train": []}, image_size=64, marks_px={})
    with pytest.raises(ValueError, match=r"\[n, n\]"):
        viz.where_objects_lie({"train": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="no image"):
        viz.annotated_images({}, [])
    with pytest.raises(ValueError, match="label 3"):
        viz.annotated_images({"a": (np.zeros((3, 9, 9)), [[1, 1, 2, 2]], [3])}, ["cat"])


def test_objects_are_counted_by_their_anchors():
    figure = viz.anchors_in_objects({"train": [0, 0, 1, 2, 4, 2000], "val": []})
    assert "train: none in 33.3%, median 2" in figure.alt_text
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert [round(h, 1) for h in heights] == [33.3, 16.7, 16.7, 16.7, 0, 0, 0, 0, 0, 0, 16.7]
    with pytest.raises(ValueError, match="no object"):
        viz.anchors_in_objects({"train": []})
