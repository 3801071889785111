"""Our matching and curves beside those of pycocotools: whole tables, on sets made to be awkward."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import iou as their_iou

from dfine_lib.evaluate import CocoEvaluator, Detections, coco_matching
from dfine_lib.evaluate.coco_matching import Found, Objects, counted, match, outside, overlaps, rank_in_group, to_xywh
from dfine_lib.evaluate.coco_precision import countable, score

CATEGORIES = (3, 7, 8, 20)  # 20 has no objects
IMAGES = (5, 2, 40, 9, 11)  # 11 is empty


def awkward(
    seed: int, *, objects: int, found: int, whole: bool, ties: int, crowds: float, spread: float
) -> tuple[dict, dict]:
    """A COCO file, and by image labels, corners and scores.

    Args:
        objects, found: most per image and class.
        whole: coordinates are whole numbers on a small grid, so that many overlaps are equal.
        ties: scores are multiples of 1 / ties.
        crowds: share of crowd regions.
        spread: of found boxes about objects, in sides.
    """
    random = np.random.default_rng(seed)
    annotations, results = [], {}
    for image in IMAGES:
        labels, boxes, scores = [], [], []
        for label, category in enumerate(CATEGORIES):
            n = 0 if category == 20 or image == 11 else int(random.integers(0, objects + 1))
            wh = np.exp(random.uniform(1.5, 5.5, (n, 2)))
            xywh = np.concatenate([random.random((n, 2)) * 300, wh], 1)
            xywh = np.ceil(xywh / 20) * 16 if whole else xywh
            annotations += [
                {
                    "id": len(annotations) + k + 1, "image_id": image, "category_id": category, "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * random.choice([1, 1, 0.3, 4])),  # areas are those of masks
                    "iscrowd": int(random.random() < crowds),
                }
                for k, box in enumerate(xywh)
            ]  # fmt: skip
            k = int(random.integers(0, found + 1))
            near = xywh[random.integers(0, n, k)] if n else np.tile([10.0, 10, 50, 50], (k, 1))
            moved = near + random.normal(0, spread, (k, 4)) * np.tile(near[:, 2:], (1, 2))
            moved[:, 2:] = np.maximum(moved[:, 2:], 1)
            boxes.append(np.round(moved / 16) * 16 if whole else moved)
            labels += [label] * k
            scores.append(np.round(random.random(k) * ties) / ties)
        order = random.permutation(len(labels))  # in no order at all
        boxes, scores = np.concatenate(boxes)[order], np.concatenate(scores)[order]
        results[image] = (np.array(labels, np.int64)[order], boxes, scores)
    file = {
        "info": {}, "images": [{"id": i} for i in IMAGES], "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in CATEGORIES],
    }  # fmt: skip
    return file, results


def theirs(file: dict, results: dict) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' tables, `[10, 101, C, 4, 3]` and `[10, C, 4, 3]`."""
    rows = [
        {"image_id": image, "category_id": CATEGORIES[label], "bbox": box.tolist(), "score": float(value)}
        for image, columns in results.items()
        for label, box, value in zip(*columns, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = file
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def columns(file: dict, results: dict) -> tuple[Objects, Found]:
    """The same for ours, boxes with the very numbers that pycocotools gets."""
    places = {image: place for place, image in enumerate(sorted(IMAGES))}
    annotations = file["annotations"]
    iscrowd = np.array([a["iscrowd"] for a in annotations], bool)
    objects = Objects(
        np.array([places[a["image_id"]] for a in annotations], np.int64),
        np.array([CATEGORIES.index(a["category_id"]) for a in annotations], np.int64),
        np.array([a["bbox"] for a in annotations]).reshape(-1, 4),
        np.array([a["area"] for a in annotations], np.float64),
        iscrowd, iscrowd,
    )  # fmt: skip
    parts = [(np.full(len(r[0]), places[image], np.int32), *r) for image, r in sorted(results.items())]
    return objects, Found(*map(np.concatenate, zip(*parts, strict=True)))


# By hand


def test_a_detection_takes_the_counted_object_before_one_that_overlaps_more():
    """Sides 31 and 34: the object of 34 px is no small one, but the better fit for what is found."""
    objects = Objects(
        np.zeros(2, np.int64), np.zeros(2, np.int64), np.array([[0.0, 0, 31, 31], [0, 0, 34, 34]]),
        np.array([31.0**2, 34.0**2]), np.zeros(2, bool), np.zeros(2, bool),
    )  # fmt: skip
    found = Found(np.zeros(1, np.int32), np.zeros(1, np.int32), np.array([[0.0, 0, 34, 34]]), np.array([0.9]))
    result = match(objects, np.zeros(2, np.int64), found, np.zeros(1, np.int64))
    in_area = [(int(result.taken[0]) >> 10 * a & 1023, int(result.ignored[0]) >> 10 * a & 1023) for a in range(4)]
    small_fits = 0b0001111111  # IoU 0.831: up to 0.80
    assert in_area[0] == (1023, 0) and in_area[2] == (1023, 0)
    assert in_area[1] == (1023, 1023 - small_fits)  # small: its own, and above 0.80 the one that does not count
    assert in_area[3] == (1023, 1023)  # large: none counts


def test_overlap_is_common_area_over_union_and_over_the_found_box_for_a_crowd():
    found, there = np.array([0.0, 0, 10, 10]), np.array([[5.0, 0, 10, 10], [5, 0, 10, 10], [30, 0, 10, 10]])
    np.testing.assert_array_equal(overlaps(found, there, np.array([False, True, False])), [50 / 150, 0.5, 0])


def test_rank_counts_within_each_group():
    assert rank_in_group(np.array([4, 4, 4, 6, 9, 9])).tolist() == [0, 1, 2, 0, 0, 1]
    assert rank_in_group(np.zeros(0, np.int64)).tolist() == []


def test_areas_include_both_their_ends_and_what_is_ignored_never_counts():
    objects = Objects(
        np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros((4, 4)), np.array([1024.0, 9216, 1024, 1024]),
        np.array([False, False, True, False]), np.array([False, False, True, True]),
    )  # fmt: skip
    assert counted(objects).tolist() == [[True, True, True, False], [True, False, True, True], [False] * 4, [False] * 4]
    square = Found(np.zeros(1, np.int32), np.zeros(1, np.int32), np.array([[8.0, 8, 40, 40]]), np.ones(1))
    assert outside(square).tolist() == [[False, False, False, True]]


def test_the_best_hundred_of_a_group_are_those_of_the_highest_score_then_the_first():
    scores = np.r_[np.full(60, 0.5), np.full(60, 0.7), 0.1]
    found = Found(np.zeros(121, np.int32), np.r_[np.zeros(120, np.int32), [1]], np.zeros((121, 4)), scores)
    order = countable(found, 2)
    assert order.by_score.tolist() == [*range(60, 120), *range(40), 120]
    assert order.by_group.tolist() == order.by_score.tolist() and order.rank.tolist() == [*range(100), 0]


# Beside pycocotools


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("plain", {"objects": 6, "found": 20, "whole": False, "ties": 10**6, "crowds": 0, "spread": 0.15}),
        ("equal overlaps", {"objects": 8, "found": 30, "whole": True, "ties": 10**6, "crowds": 0.1, "spread": 0.2}),
        ("equal scores", {"objects": 6, "found": 30, "whole": False, "ties": 4, "crowds": 0.1, "spread": 0.15}),
        ("both", {"objects": 8, "found": 40, "whole": True, "ties": 3, "crowds": 0.2, "spread": 0.1}),
        ("more than a hundred", {"objects": 5, "found": 160, "whole": True, "ties": 50, "crowds": 0.1, "spread": 0.1}),
        ("crowds", {"objects": 5, "found": 30, "whole": False, "ties": 20, "crowds": 0.7, "spread": 0.2}),
        ("found nowhere near", {"objects": 3, "found": 6, "whole": False, "ties": 20, "crowds": 0, "spread": 3.0}),
        ("one each", {"objects": 1, "found": 1, "whole": True, "ties": 2, "crowds": 0.3, "spread": 0.1}),
    ],
)
@pytest.mark.parametrize("at_once", [7, 1 << 20], ids=["in pieces", "at once"])
def test_every_table_is_that_of_pycocotools(name, how, at_once, monkeypatch):
    monkeypatch.setattr(coco_matching, "_AT_ONCE", at_once)
    for seed in range(3):
        file, results = awkward(seed, **how)
        precision, recall = theirs(file, results)
        # pycocotools measures left, top, width, height; corners would round the last bit of what it compares.
        objects, found = columns(file, results)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coco_matching, "to_xywh", lambda boxes: boxes)
            ours = score(objects, found, len(CATEGORIES))
        np.testing.assert_allclose(ours.precision, precision[..., -1], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ours.recall, recall[..., -1])
        np.testing.assert_array_equal(ours.recall_of_few, recall[:, :, 0, :2])
        assert (precision[:, :, 3] == -1).all() and (name == "found nowhere near" or (precision > 0).any())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.fixed_dictionaries({
        "objects": st.integers(0, 9), "found": st.integers(1, 25),
        "ties": st.sampled_from([2, 5, 1000]), "crowds": st.sampled_from([0, 0.3]),
        "spread": st.sampled_from([0.05, 0.2]),
    }),
)  # fmt: skip
def test_on_any_set_the_evaluator_gives_the_twelve_numbers_of_pycocotools(seed, how):
    file, results = awkward(seed, **how, whole=True)  # whole corners and sides: exact either way
    if not any(len(labels) for labels, _, _ in results.values()):
        return  # pycocotools cannot take an empty list
    precision, recall = theirs(file, results)
    evaluator = CocoEvaluator(file)
    for image, (labels, boxes, scores) in results.items():  # not by rising id
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        evaluator.add([image], [Detections(*map(torch.from_numpy, (labels, corners, scores)))])
    got = evaluator.metrics()
    mean = lambda table: table[table > -1].mean() if (table > -1).any() else np.nan  # noqa: E731
    want = [mean(precision[..., 0, -1]), mean(precision[0, ..., 0, -1]), mean(precision[5, ..., 0, -1])]
    want += [mean(precision[..., a, -1]) for a in (1, 2, 3)]
    want += [mean(recall[..., 0, m]) for m in range(3)] + [mean(recall[..., a, -1]) for a in (1, 2, 3)]
    np.testing.assert_allclose(list(vars(got).values())[:12], want, rtol=0, atol=1e-12)


def test_overlaps_are_those_of_pycocotools_to_the_last_bit():
    random = np.random.default_rng(0)
    found, there = (np.concatenate([random.random((n, 2)) * 50, random.random((n, 2)) * 60], 1) for n in (300, 40))
    found[:5, 2:] = 0  # without extent
    crowd = random.random(40) < 0.3
    got = overlaps(found[:, None], there, crowd)
    np.testing.assert_array_equal(got, their_iou(found, there, crowd.astype(int).tolist()))


# What is held


def test_detections_keep_the_type_they_come_in_and_are_copied():
    file, _ = awkward(0, objects=3, found=3, whole=True, ties=3, crowds=0, spread=0.1)
    evaluator = CocoEvaluator(file)
    boxes, scores = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.5])
    evaluator.add([5], [Detections(torch.tensor([0]), boxes, scores)])
    boxes.zero_()
    image = next(i for i in evaluator.by_image() if i.image_id == 5)
    assert image.boxes_xyxy.tolist() == [[1, 2, 3, 4]] and image.scores.tolist() == [0.5]
    held = evaluator._stacked()
    assert held.boxes_xyxy.dtype == held.scores.dtype == np.float32
    assert sum(column.nbytes for column in held) == 7 * 4


def test_width_and_height_are_taken_in_double_precision():
    corners = np.array([[0.1, 0.2, 100.3, 50.7]], np.float32)
    want = corners.astype(np.float64)
    np.testing.assert_array_equal(to_xywh(corners)[0, 2:], want[0, 2:] - want[0, :2])
