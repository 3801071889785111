"""Losses by term, boxes before and after, runs side by side."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz


def test_terms_say_where_they_begin_and_end():
    figure = viz.loss_terms({"VFL": [0.5, 0.25], "L1": [2.0, 0.1]}, [9.0, 4.0])
    assert "in all 9.0 to 4.0" in figure.alt_text and "VFL 0.50 to 0.25; L1 2.00 to 0.10" in figure.alt_text


def test_the_mean_iou_gives_each_object_its_own_box():
    image, truth = np.zeros((16, 16, 3)), np.array([[0, 0, 8, 8], [8, 8, 16, 16]])
    twice = np.array([[0, 0, 8, 8], [0, 0, 8, 8]])  # the second object is not found
    half = np.array([[0, 0, 8, 4], [8, 8, 16, 16]])
    figure = viz.boxes_before_and_after([image], [truth], {"before": [twice], "after": [half]})
    assert "before 0.50; after 0.75" in figure.alt_text
    assert [len(axes.patches) for axes in figure.axes] == [4, 4]


def test_no_boxes_at_all_are_an_iou_of_zero():
    figure = viz.boxes_before_and_after([np.zeros((8, 8, 3))], [[[0, 0, 4, 4]]], {"before": [np.zeros((0, 4))]})
    assert "before 0.00" in figure.alt_text


def test_runs_are_told_by_kind_of_loss():
    runs = {"healthy": {"all": [9, 1], "VFL": [1, 0.5]}, "flat": {"all": [9, 9], "VFL": [1, 1]}}
    figure = viz.runs_side_by_side(runs)
    assert "healthy: all 9 to 1, VFL 1 to 0.5; flat: all 9 to 9" in figure.alt_text
    assert len(figure.axes) == 2 and figure.axes[0].lines[1].get_ydata() == pytest.approx([9, 9])
