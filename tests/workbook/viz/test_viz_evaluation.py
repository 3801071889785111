"""Figures of an evaluation: what is drawn and told is what was given."""

from __future__ import annotations

import numpy as np
import pytest
from workbook import viz

from dfine_tools.analysis.errors import error_breakdown
from dfine_tools.analysis.image_boxes import ImageBoxes


def one_image(labels=(0, 1), scores=(0.9, 0.8)) -> ImageBoxes:
    """Two objects of class 0, a found one and one taken for class 1; a crowd region of class 1."""
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 60, 20]], dtype=float)
    found = boxes[: len(labels)]
    crowd = np.array([False, False, True])
    return ImageBoxes(7, np.array([0, 0, 1]), boxes, crowd, crowd, np.array(labels), found, np.array(scores))


def test_errors_by_type_draws_a_bar_for_each_type_and_both_sides_with_delta_ap():
    breakdown = error_breakdown([one_image()])
    figure = viz.errors_by_type(breakdown)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx(
        [*breakdown.delta_ap.values(), breakdown.delta_ap_false_positives, breakdown.delta_ap_false_negatives]
    )
    assert f"classification (1) {1 - 51 / 101:.3f}" in figure.alt_text and figure.png()


def test_errors_of_nothing_are_drawn_as_not_measured():
    figure = viz.errors_by_type(error_breakdown([]))
    assert "not measured" in figure.alt_text and figure.png()


def test_precision_recall_curves_draws_ten_thresholds_and_every_measured_class():
    precision = np.zeros((10, 101, 3))
    precision[:5, :51, 0] = 1
    precision[:, :, 2] = np.nan
    figure = viz.precision_recall_curves(precision, ["cat", "dog", "owl"])
    assert [len(axes.lines) for axes in figure.axes] == [10, 2]
    assert f"0.50 {51 / 101 / 2:.3f}" in figure.alt_text and "cat 0.50, dog 0.00" in figure.alt_text
    assert "owl" not in figure.alt_text and figure.png()
    with pytest.raises(ValueError, match=r"\[10, 101, 2\]"):
        viz.precision_recall_curves(precision, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"and 0\.52"):
        viz.precision_recall_curves(precision, ["cat", "dog", "owl"], iou=0.52)


def test_of_many_classes_the_best_and_the_worst_five_have_names():
    precision = np.broadcast_to(np.linspace(1, 0, 30), (10, 101, 30))
    labels = viz.precision_recall_curves(precision, [f"c{n}" for n in range(30)]).axes[1].get_legend_handles_labels()[1]
    assert [label.split(":")[0] for label in labels] == [f"c{n}" for n in [*range(5), *range(25, 30)]]


def test_precision_without_any_object_is_drawn_empty():
    figure = viz.precision_recall_curves(np.full((10, 101, 1), np.nan), ["cat"])
    assert "nothing to measure" in figure.alt_text and figure.png()
    assert viz.precision_recall_curves(np.zeros((10, 101, 0)), []).png()


def test_confusion_writes_every_count_and_names_the_worst_pair():
    figure = viz.confusion([[5, 2, 1], [0, 3, 0], [0, 4, 0]], ["cat", "dog"], score=0.4)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == sorted("52134")
    assert (
        "of 11 objects 8 true positives, 1 false negatives, 4 false positives on no object; cat detected as dog 2 times"
        in figure.alt_text
    )
    with pytest.raises(ValueError, match=r"\[4, 4\]"):
        viz.confusion(np.zeros((3, 3)), ["a", "b", "c"], score=0.4)


def test_of_many_classes_those_with_most_errors_are_shown():
    matrix = np.diag([9] * 41)
    matrix[30, 31] = 4
    figure = viz.confusion(matrix, [f"c{n}" for n in range(40)], score=0.4)
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(ticks) == 17 and {"c30", "c31"} <= set(ticks) and "16 of 40" in figure.axes[0].get_title(loc="left")


def test_matched_and_missed_objects_true_and_false_positives_are_drawn():
    figure = viz.detection_errors([np.zeros((40, 60, 3), np.uint8)], [one_image()], ["cat", "dog"], score=0.4)
    labels = sorted(patch.get_label() for patch in figure.axes[0].patches)
    assert labels == ["crowd region", "false positive", "object, matched", "object, missed", "true positive"]
    assert "image 7: 1 missed, 1 false positives" in figure.alt_text and figure.png()
    assert (
        "2 missed, 0 false positives"
        in viz.detection_errors([np.zeros((40, 60, 3))], [one_image()], ["a", "b"], 0.95).alt_text
    )
    with pytest.raises(ValueError, match="at least one"):
        viz.detection_errors([], [], ["cat"], score=0.4)


def test_of_many_false_positives_the_twelve_of_highest_score_have_words_and_all_are_drawn():
    boxes = np.array([[0, 0, 10, 10]] * 30, dtype=float)
    nobody = np.zeros(0, int)
    image = ImageBoxes(
        1, nobody, np.zeros((0, 4)), *[nobody.astype(bool)] * 2, np.zeros(30, int), boxes, np.linspace(0.9, 0.5, 30)
    )
    axes = viz.detection_errors([np.zeros((40, 60, 3))], [image], ["cat"], score=0.4).axes[0]
    assert len(axes.patches) == 30
    assert [text.get_text() for text in axes.texts][-1] == "cat 0.90 background" and len(axes.texts) == 12
