"""The kinds of errors, worked out by hand, held to COCO's AP and to the code of the TIDE paper."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfine_lib.evaluate import CocoEvaluator, Detections
from dfine_tools.analysis.errors import (
    ERROR_TYPES,
    IGNORED,
    TRUE_POSITIVE,
    confusion_matrix,
    error_breakdown,
    match_detections,
    worst_images,
)
from dfine_tools.analysis.image_boxes import boxes_by_image, precision_by_recall

EVAL_PAIRS = Path(__file__).parents[4] / "shared" / "data" / "eval_pairs"
GOLDEN = Path(__file__).parents[2] / "golden" / "tide.json"
BOX = [0, 0, 10, 10]  # xywh, what most examples below are about


def evaluator(truths, found, categories=(1, 2), images=(1,)) -> CocoEvaluator:
    """`truths`: (image id, category id, xywh, crowd or "difficult"); `found`: (image id, category id, xywh, score)."""
    annotations = [
        {
            "id": n,
            "image_id": i,
            "category_id": c,
            "bbox": list(box),
            "iscrowd": int(mark == [True]),
            "difficult": int(mark == ["difficult"]),
        }
        for n, (i, c, box, *mark) in enumerate(truths, start=1)
    ]
    file = {"images": [{"id": i} for i in images], "annotations": annotations}
    result = CocoEvaluator(file | {"categories": [{"id": c, "name": f"class {c}"} for c in categories]})
    for image in images:
        rows = [row for row in found if row[0] == image]
        xywh = np.array([box for _, _, box, _ in rows], dtype=np.float64).reshape(-1, 4)
        labels = np.array([list(categories).index(c) for _, c, _, _ in rows], dtype=np.int64)
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        result.add([image], [Detections(labels, xyxy, np.array([s for *_, s in rows]))])
    return result


def by_image(*arguments, **options):
    return boxes_by_image(evaluator(*arguments, **options))


def kinds(truths, found, **options) -> list[str]:
    """In words, by falling score."""
    words = {TRUE_POSITIVE: "true positive", IGNORED: "ignored"} | dict(enumerate(ERROR_TYPES))
    return [words[k] for k in match_detections(by_image(truths, found, **options)).status.tolist()]


@pytest.mark.parametrize(
    ("category", "box", "kind"),
    [
        (1, [0, 0, 10, 5], "true positive"),  # IoU 0.5 is enough
        (1, [0, 0, 10, 4], "localisation"),  # IoU 0.4
        (1, [0, 0, 10, 1], "localisation"),  # IoU 0.1
        (2, [0, 0, 10, 8], "classification"),  # IoU 0.8
        (2, [0, 0, 10, 4], "both"),
        (2, [0, 0, 10, 1], "background"),  # IoU 0.1 is nothing for another class
        (1, [50, 50, 9, 9], "background"),
    ],
)
def test_one_detection_beside_one_object_is_what_its_overlap_and_class_say(category, box, kind):
    assert kinds([(1, 1, BOX)], [(1, category, box, 0.9)]) == [kind]


def test_a_second_detection_of_a_found_object_is_a_duplicate_and_the_less_sure_one_at_that():
    found = [(1, 1, [0, 0, 10, 10], 0.3), (1, 1, [0, 0, 10, 8], 0.9)]
    assert kinds([(1, 1, BOX)], found) == ["true positive", "duplicate"]


def test_a_bad_place_on_its_own_class_goes_before_a_good_place_on_another():
    truths = [(1, 1, BOX), (1, 2, [0, 0, 10, 4])]
    assert kinds(truths, [(1, 1, [0, 0, 10, 4], 0.9)]) == ["localisation"]


def test_an_object_is_missed_unless_a_detection_on_it_has_only_its_class_or_its_place_wrong():
    far = [50, 50, 9, 9]
    for found, missed in [([], 1), ([(1, 1, far, 0.9)], 1), ([(1, 2, BOX, 0.9)], 0), ([(1, 2, [0, 0, 9, 3], 0.9)], 1)]:
        breakdown = error_breakdown(by_image([(1, 1, BOX)], found))
        assert breakdown.counts["missed"] == missed, found


def test_the_delta_ap_of_fixing_one_wrong_class_is_worked_out_by_hand():
    # Class 1: two objects, one found (AP: 51 of 101 recalls have precision 1). Class 2: its object found, and a surer
    # detection of class 2 on the other object of class 1, so precision 1/2 at every recall.
    truths = [(1, 1, BOX), (1, 1, [40, 0, 10, 10]), (1, 2, [80, 0, 10, 10])]
    found = [(1, 1, BOX, 0.9), (1, 2, [40, 0, 10, 10], 0.8), (1, 2, [80, 0, 10, 10], 0.7)]
    breakdown = error_breakdown(by_image(truths, found))
    before = (51 / 101 + 1 / 2) / 2
    assert breakdown.ap == pytest.approx(before)
    assert breakdown.counts == dict.fromkeys(ERROR_TYPES, 0) | {"classification": 1}
    assert breakdown.delta_ap == pytest.approx(dict.fromkeys(ERROR_TYPES, 0) | {"classification": 1 - before})
    assert breakdown.delta_ap_false_positives == pytest.approx((51 / 101 + 1) / 2 - before)
    assert breakdown.delta_ap_false_negatives == pytest.approx((1 + 1 / 2) / 2 - before)
    assert breakdown.rows()[0] == {
        "error": "classification",
        "count": 1,
        "ΔAP": breakdown.delta_ap["classification"],
    }


def test_of_two_badly_placed_boxes_on_one_object_that_of_higher_score_is_fixed_and_the_other_removed():
    found = [(1, 1, [0, 0, 10, 4], 0.9), (1, 1, [0, 6, 10, 4], 0.8)]
    breakdown = error_breakdown(by_image([(1, 1, BOX)], found, categories=(1,)))
    assert (breakdown.ap, breakdown.counts["localisation"]) == (0, 2)
    assert breakdown.delta_ap["localisation"] == pytest.approx(1)


def test_a_difficult_object_is_no_object_and_what_is_found_on_it_is_ignored():
    truths = [(1, 1, BOX, "difficult"), (1, 1, [200, 0, 10, 10])]
    found = [(1, 1, BOX, 0.9), (1, 1, [0, 0, 10, 8], 0.8), (1, 2, BOX, 0.7), (1, 1, [0, 0, 3, 3], 0.6)]
    found.append((1, 1, [200, 0, 10, 10], 0.5))
    assert kinds(truths, found) == ["ignored", "ignored", "background", "background", "true positive"]
    breakdown = error_breakdown(by_image(truths, found[:2] + found[-1:]))
    assert breakdown.ap == 1.0 and breakdown.counts == dict.fromkeys(ERROR_TYPES, 0)
    assert confusion_matrix(by_image(truths, found[:2] + found[-1:]), 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert worst_images(by_image(truths, found[:2] + found[-1:])) == []
    assert [one.false_negatives for one in worst_images(by_image(truths, []))] == [1]


def test_a_crowd_swallows_detections_of_its_class_and_is_no_object():
    truths = [(1, 1, [0, 0, 100, 100], True), (1, 1, [200, 0, 10, 10])]
    found = [(1, 1, [10, 10, 5, 5], 0.9), (1, 2, [10, 10, 5, 5], 0.8), (1, 1, [200, 0, 10, 10], 0.7)]
    assert kinds(truths, found) == ["ignored", "background", "true positive"]
    images = by_image(truths, found)
    assert error_breakdown(images).ap == 1
    assert confusion_matrix(images, 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    worst = worst_images(images)[0]
    assert (worst.objects, worst.false_negatives, worst.false_positives) == (1, 0, 1)


def test_without_detections_everything_is_missed_and_without_objects_nothing_is_measured():
    nothing = error_breakdown(by_image([(1, 1, BOX), (2, 2, BOX)], [], images=(1, 2)))
    assert nothing.ap == 0 and nothing.counts == dict.fromkeys(ERROR_TYPES, 0) | {"missed": 2}
    empty = error_breakdown(by_image([], [(1, 1, BOX, 0.9)]))
    assert np.isnan(empty.ap) and empty.counts["background"] == 1
    assert np.isnan(error_breakdown([]).ap) and worst_images([]) == []
    assert confusion_matrix([], 2).sum() == 0
    assert match_detections([]).found.dtype == bool


def test_the_last_row_of_a_confusion_matrix_is_false_and_its_last_column_missed():
    truths = [(1, 1, BOX), (1, 1, [40, 0, 10, 10]), (1, 2, [80, 0, 10, 10])]
    found = [
        (1, 1, BOX, 0.9),
        (1, 2, [40, 0, 10, 10], 0.8),  # class 1 taken for class 2
        (1, 2, [120, 0, 10, 10], 0.7),  # nothing there
        (1, 2, [80, 0, 10, 10], 0.39),  # below the score, so its object is missed
    ]
    assert confusion_matrix(by_image(truths, found), 2).tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_an_object_goes_to_its_own_class_first_even_where_another_is_surer():
    found = [(1, 2, BOX, 0.9), (1, 1, [0, 0, 10, 8], 0.5)]
    assert confusion_matrix(by_image([(1, 1, BOX)], found), 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_worst_image_is_the_one_with_most_errors_and_one_without_is_left_out():
    truths = [(1, 1, BOX), (2, 1, BOX), (2, 1, [40, 0, 10, 10]), (3, 1, BOX)]
    found = [(1, 1, BOX, 0.9), (2, 2, BOX, 0.9), (3, 1, [0, 0, 10, 4], 0.9)]
    worst = worst_images(by_image(truths, found, images=(1, 2, 3)))
    assert [(w.image_id, w.index, w.false_negatives, w.false_positives) for w in worst] == [(2, 1, 2, 1), (3, 2, 1, 1)]
    assert len(worst_images(by_image(truths, found, images=(1, 2, 3)), most=1)) == 1
    assert worst_images(by_image(truths, found, images=(1, 2, 3)), score=0.95)[0].false_positives == 0


def test_thresholds_and_labels_out_of_range_are_refused():
    images = by_image([(1, 2, BOX)], [])
    with pytest.raises(ValueError, match="0 < background < foreground"):
        match_detections(images, foreground=0.1, background=0.5)
    with pytest.raises(ValueError, match="labels 1 to 1 for 1"):
        confusion_matrix(images, 1)
    with pytest.raises(ValueError, match="iou"):
        confusion_matrix(images, 2, iou=0)


def test_a_detection_of_a_class_that_the_file_lacks_is_left_out():
    scored = CocoEvaluator({"images": [{"id": 1}], "annotations": [], "categories": [{"id": 5, "name": "cat"}]}, (3, 5))
    scored.add([1], [Detections(np.array([0, 1]), np.array([[0, 0, 9, 9]] * 2), np.array([0.9, 0.8]))])
    (image,) = boxes_by_image(scored)
    assert scored.class_names == ["cat"] and image.labels.tolist() == [0] and image.scores.tolist() == [0.8]


def test_precision_is_what_ap_is_the_mean_of_and_not_a_number_without_objects():
    scored = evaluator([(1, 1, BOX), (1, 1, [40, 0, 10, 10])], [(1, 1, BOX, 0.9)])
    precision = precision_by_recall(scored)
    assert precision.shape == (10, 101, 2) and np.isnan(precision[:, :, 1]).all()
    assert precision[0, :, 0].sum() == 51 and precision[0, 51:, 0].sum() == 0
    assert np.nanmean(precision) == pytest.approx(scored.metrics().ap)


row = st.tuples(
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(row, st.booleans()), max_size=8),
    st.lists(st.tuples(row, st.integers(1, 9)), max_size=12),
)
def test_on_any_boxes_ap_is_cocos_every_object_and_detection_has_one_status_and_removing_errors_costs_nothing(
    drawn_truths, drawn_found
):
    truths = [(*values, crowd) for values, crowd in drawn_truths]
    found = [(*values, score / 10) for values, score in drawn_found]
    scored = evaluator(truths, found, images=(1, 2))
    images, expected = boxes_by_image(scored), scored.metrics().ap50
    breakdown, matches = error_breakdown(images), match_detections(images)
    assert breakdown.ap == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert len(matches.status) == len(found) and len(matches.found) == sum(not crowd for *_, crowd in truths)
    assert (matches.status == TRUE_POSITIVE).sum() == matches.found.sum()
    if len(matches.found):
        assert min(breakdown.delta_ap.values()) >= -1e-12
        assert breakdown.delta_ap_false_positives >= -1e-12
    matrix = confusion_matrix(images, 2, score=0)
    assert matrix[:2].sum() == len(matches.found) and matrix[2, 2] == 0
    assert matrix[:, :2].sum() + (matches.status == IGNORED).sum() == len(found)
    assert np.trace(matrix[:2, :2]) == matches.found.sum()


@pytest.mark.parametrize("number", range(3))
def test_counts_and_gains_are_those_of_the_papers_code(number):
    problem = json.loads(GOLDEN.read_text())["problems"][number]
    truths = [(a["image_id"], a["category_id"], a["bbox"]) for a in problem["truth"]["annotations"]]
    images = by_image(truths, problem["found"], categories=(1, 2, 3), images=range(1, 9))
    breakdown = error_breakdown(images)
    names = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), ERROR_TYPES, strict=True))
    assert breakdown.counts == {names[n]: c for n, c in zip(problem["order"], problem["counts"], strict=True)}
    assert breakdown.delta_ap == pytest.approx(
        {names[n]: g for n, g in zip(problem["order"], problem["gains"], strict=True)}, abs=1e-9
    )
    assert breakdown.ap == pytest.approx(problem["ap"])
    assert breakdown.delta_ap_false_positives == pytest.approx(problem["false_positives"])
    assert breakdown.delta_ap_false_negatives == pytest.approx(problem["false_negatives"])


@pytest.mark.parametrize(
    ("truth_file", "found_file"),
    [
        ("val2014_fake100/gt.json", "val2014_fake100/dt_bbox.json"),
        ("fce_small/gt_ignore.json", "fce_small/dt_ignore_min0.1.json"),
    ],
)
def test_on_real_annotations_with_crowds_ap_is_cocos_and_everything_is_counted_once(truth_file, found_file):
    if not EVAL_PAIRS.exists():
        pytest.skip(f"needs {EVAL_PAIRS}")
    scored = CocoEvaluator(EVAL_PAIRS / truth_file)
    rows: dict[int, list] = {}
    for row in json.loads((EVAL_PAIRS / found_file).read_text()):
        rows.setdefault(row["image_id"], []).append(row)
    for image_id, own in rows.items():
        xywh = np.array([row["bbox"] for row in own])
        labels = np.searchsorted(scored.category_ids, [row["category_id"] for row in own])
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        scored.add([image_id], [Detections(labels, xyxy, np.array([row["score"] for row in own]))])
    images = boxes_by_image(scored)
    breakdown, matches = error_breakdown(images), match_detections(images)
    assert breakdown.ap == pytest.approx(scored.metrics().ap50, abs=1e-12) and 0 < breakdown.ap <= 1
    wrong = sum(count for kind, count in breakdown.counts.items() if kind != "missed")
    assert wrong + (matches.status == TRUE_POSITIVE).sum() + (matches.status == IGNORED).sum() == len(matches.status)
    matrix = confusion_matrix(images, len(scored.class_names), score=0)
    assert np.trace(matrix) == matches.found.sum() and matrix[:-1].sum() == len(matches.found)


def test_by_image_keeps_the_best_hundred_of_a_class_of_equal_scores_the_first():
    scores = np.r_[np.full(60, 0.5), np.full(60, 0.7), 0.1]
    found = [(1, 1 + int(i == 120), (i, 0, 10, 10), value) for i, value in enumerate(scores)]
    (image,) = by_image([(1, 1, BOX)], found)
    assert image.boxes_xyxy[:, 0].tolist() == [*range(60, 120), *range(40), 120]
    assert image.scores.tolist() == sorted(image.scores, reverse=True)


def test_detections_are_copied_and_corners_of_float32_come_back():
    scored = CocoEvaluator({"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]})
    boxes = torch.tensor([[0.1, 0.2, 100.3, 50.7]])
    want = boxes.double().tolist()
    scored.add([1], [Detections(torch.tensor([0]), boxes, torch.tensor([0.5]))])
    boxes.zero_()
    assert boxes_by_image(scored)[0].boxes_xyxy.tolist() == want
