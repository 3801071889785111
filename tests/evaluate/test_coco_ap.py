from __future__ import annotations

import contextlib
import io
import json
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dfine_lib.distributed import Ranks
from dfine_lib.errors import DfineError
from dfine_lib.evaluate import CocoEvaluator, CocoMetrics, Detections, coco_ap, evaluate_model

EVAL_PAIRS = Path(__file__).parents[3] / "shared" / "data" / "eval_pairs"
NUMBERS = [
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
]


def ground_truth(boxes, categories=((1, "cat"),), images=(1,)) -> dict:
    """`boxes`: (image id, category id, xywh) or the same with a dictionary of extra keys; ids from 1."""
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": list(box), **(extra[0] if extra else {})}
        for n, (image, category, box, *extra) in enumerate(boxes, start=1)
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 640, "height": 480} for i in images],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in categories],
    }


def detections(rows) -> Detections:
    """`rows`: (label, xywh, score); float64, so that exact agreement can be asked for."""
    xywh = np.array([box for _, box, _ in rows], dtype=np.float64).reshape(-1, 4)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return Detections(
        torch.tensor([label for label, _, _ in rows], dtype=torch.int64),
        torch.from_numpy(xyxy),
        torch.tensor([score for _, _, score in rows], dtype=torch.float64),
    )


def score(truth, found: dict, category_ids=None) -> CocoMetrics:
    """`found`: rows of `detections` by image id."""
    evaluator = CocoEvaluator(truth, category_ids)
    evaluator.add(list(found), [detections(rows) for rows in found.values()])
    return evaluator.metrics()


def by_pycocotools(truth: dict, found: dict, category_ids) -> list[float]:
    """The twelve numbers of the oracle; it needs `area`, `iscrowd` and `info` in the file."""
    annotations = [{"area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0, **a} for a in truth["annotations"]]
    rows = [
        {"image_id": image, "category_id": category_ids[label], "bbox": list(box), "score": value}
        for image, found_in_image in found.items()
        for label, box, value in found_in_image
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth, "annotations": annotations}
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [math.nan if v < 0 else v for v in run.stats.tolist()]


def numbers(metrics: CocoMetrics) -> list[float]:
    return [getattr(metrics, name) for name in NUMBERS]


# By hand


def test_six_boxes_worked_out_by_hand():
    """Three objects in two images; six detections, every box 40 px, so IoU = overlap / (2 - overlap).

    By falling score: exact hit, miss, hit with IoU 1/2 + a little (28 px of 40: 28/52 = 0.538), a second detection of
    a found object, exact hit, miss. At IoU 0.50: hits at ranks 1, 3, 5 with precision 1, 2/3, 3/5 and recalls 1/3,
    2/3, 1. COCO reads precision at the 101 recalls 0.00, 0.01, ...: 34 of them up to 1/3, 33 up to 2/3, 34 up to 1.
    From IoU 0.55 on rank 3 misses: hits at ranks 1 and 5, precision 1 and 2/5, recalls 1/3 and 2/3, and 0 beyond.
    """
    truth = ground_truth(
        [(1, 7, (10, 10, 40, 40)), (1, 7, (100, 10, 40, 40)), (2, 7, (10, 10, 40, 40))],
        categories=((7, "cup"),),
        images=(1, 2),
    )
    found = {
        1: [(0, (10, 10, 40, 40), 0.9), (0, (112, 10, 40, 40), 0.7), (0, (11, 10, 40, 40), 0.6)],
        2: [(0, (300, 300, 40, 40), 0.8), (0, (10, 10, 40, 40), 0.5), (0, (400, 10, 40, 40), 0.4)],
    }
    metrics = score(truth, found)
    at_50 = (34 * 1 + 33 * 2 / 3 + 34 * 3 / 5) / 101
    above = (34 * 1 + 33 * 2 / 5) / 101
    assert metrics.ap50 == pytest.approx(at_50, abs=1e-12)
    assert metrics.ap75 == pytest.approx(above, abs=1e-12)
    assert metrics.ap == pytest.approx((at_50 + 9 * above) / 10, abs=1e-12)
    assert metrics.ar_100 == pytest.approx((1 + 9 * 2 / 3) / 10, abs=1e-12)
    assert metrics.ar_1 == pytest.approx(1 / 3, abs=1e-12)  # image 2's best is a miss
    assert metrics.ap_medium == pytest.approx(metrics.ap, abs=1e-12)
    assert math.isnan(metrics.ap_small)
    assert math.isnan(metrics.ap_large)
    assert metrics.per_class == {"cup": pytest.approx(metrics.ap, abs=1e-12)}


def test_labels_become_the_category_ids_of_the_file():
    truth = ground_truth([(1, 90, (10, 10, 40, 40)), (1, 3, (100, 10, 40, 40))], ((90, "z"), (3, "a")))
    found = {1: [(0, (10, 10, 40, 40), 0.9), (1, (100, 10, 40, 40), 0.8)]}
    assert score(truth, found, [90, 3]).per_class == {"z": 1.0, "a": 1.0}
    assert score(truth, found, [3, 90]).ap == 0.0
    assert score(truth, found).ap == 0.0  # by default ids rise with labels, whatever the file's order


# Properties


boxes = st.tuples(st.integers(0, 500), st.integers(0, 400), st.integers(1, 200), st.integers(1, 200))
placed = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), boxes), min_size=1, max_size=12, unique=True)


@settings(max_examples=30, deadline=None)
@given(placed)
def test_perfect_detections_have_an_ap_of_one(rows):
    truth = ground_truth(rows, ((1, "a"), (2, "b"), (3, "c")), images=(1, 2, 3, 4))
    found = defaultdict(list)
    for image, category, box in rows:
        found[image].append((category - 1, box, 0.5))
    metrics = score(truth, found, [1, 2, 3])
    assert metrics.ap == pytest.approx(1)
    assert metrics.ar_100 == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(placed, st.randoms(use_true_random=False))
def test_the_numbers_are_those_of_pycocotools_and_their_order_does_not_matter(rows, random):
    rows = [(i, c, b, {"iscrowd": int(random.random() < 0.2)}) for i, c, b in rows]
    truth = ground_truth(rows, ((4, "a"), (9, "b"), (1, "c"), (2, "never seen")), images=(1, 2, 3, 4, 5))
    for annotation in truth["annotations"]:
        annotation["category_id"] = {1: 4, 2: 9, 3: 1}[annotation["category_id"]]
    found = defaultdict(list)
    for image, category, (x, y, w, h), _ in rows:
        for _ in range(random.randrange(4)):
            moved = (x + random.uniform(-0.2, 0.2) * w, y + random.uniform(-0.2, 0.2) * h, w, h)
            found[image].append((random.choice([category - 1, category - 1, 0, 3]), moved, random.random()))
    category_ids = [4, 9, 1, 2]
    found = {i: sorted(r, key=lambda row: -row[2]) for i, r in found.items() if r}
    if not found:
        return  # pycocotools cannot take an empty list
    want = by_pycocotools(truth, found, category_ids)
    np.testing.assert_allclose(numbers(score(truth, found, category_ids)), want, rtol=0, atol=1e-12)
    backwards = dict(reversed(found.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_ap, "_AT_ONCE", 3)  # a few classes at a time
        np.testing.assert_allclose(numbers(score(truth, backwards, category_ids)), want, rtol=0, atol=1e-12)


def test_only_the_best_hundred_of_an_image_and_class_count_as_for_pycocotools():
    truth = ground_truth([(1, 1, (10, 10, 40, 40)), (1, 2, (10, 10, 40, 40))], ((1, "a"), (2, "b")))
    crowded = [(0, (300 + i % 7, 10, 40, 40), 0.9) for i in range(100)]  # ties, all misses
    found = {1: [*crowded, (0, (10, 10, 40, 40), 0.9), (1, (10, 10, 40, 40), 0.1)]}
    metrics = score(truth, found, [1, 2])
    assert metrics.per_class == {"a": 0.0, "b": 1.0}
    np.testing.assert_allclose(numbers(metrics), by_pycocotools(truth, found, [1, 2]), rtol=0, atol=1e-12)


# Edges


def test_no_detection_at_all_is_an_ap_of_zero():
    metrics = score(ground_truth([(1, 1, (10, 10, 20, 20))]), {1: []})
    assert (metrics.ap, metrics.ar_100, metrics.per_class) == (0.0, 0.0, {"cat": 0.0})
    assert CocoEvaluator(ground_truth([(1, 1, (10, 10, 20, 20))])).metrics().ap == 0.0


def test_a_class_without_objects_is_not_measured_and_does_not_lower_the_mean():
    truth = ground_truth([(1, 1, (10, 10, 40, 40))], ((1, "here"), (2, "absent")))
    metrics = score(truth, {1: [(0, (10, 10, 40, 40), 0.9), (1, (200, 200, 40, 40), 0.8)]})
    assert metrics.ap == 1.0
    assert metrics.to_dict()["per_class"] == {"here": 1.0, "absent": None}


def test_a_file_without_objects_gives_no_numbers_and_no_crash():
    metrics = score(ground_truth([]), {1: [(0, (10, 10, 40, 40), 0.9)]})
    assert all(math.isnan(v) for v in numbers(metrics))
    assert json.loads(json.dumps(metrics.to_dict(), allow_nan=False)) == dict.fromkeys(NUMBERS) | {
        "per_class": {"cat": None}
    }


def test_a_crowd_region_swallows_detections_and_is_no_object_itself():
    truth = ground_truth([(1, 1, (10, 10, 40, 40)), (1, 1, (200, 200, 100, 100), {"iscrowd": 1})])
    in_the_crowd = [(0, (200, 200, 40, 40), 0.95), (0, (240, 240, 40, 40), 0.94)]
    assert score(truth, {1: [*in_the_crowd, (0, (10, 10, 40, 40), 0.9)]}).ap == 1.0


@pytest.mark.parametrize("mark", [{"difficult": 1}, {"ignore": 1}, {"ignore": True}, {"difficult": "1"}])
def test_a_marked_object_is_neither_missed_nor_are_detections_on_it_false(mark, caplog):
    caplog.set_level("INFO")
    truth = ground_truth([(1, 1, (10, 10, 40, 40)), (1, 1, (200, 200, 100, 100), mark)])
    good, on_it = (0, (10, 10, 40, 40), 0.9), (0, (200, 200, 100, 100), 0.95)
    again, inside = (0, (202, 200, 100, 100), 0.94), (0, (200, 200, 40, 40), 0.96)
    assert score(truth, {1: [good]}).ap == 1.0
    assert score(truth, {1: [good, on_it, again]}).ap == 1.0  # VOC: however many
    assert score(truth, {1: [good, inside]}).ap == pytest.approx(0.5)  # no crowd: IoU decides, not the common part
    said = "1 objects marked ignore or difficult are ignored in the evaluation"
    assert sum(said in record.getMessage() for record in caplog.records) == 3


@pytest.mark.parametrize("mark", [{"difficult": 0}, {"ignore": False}, {"difficult": None}, {"ignore": "0"}])
def test_a_mark_that_is_not_set_marks_nothing(mark, caplog):
    caplog.set_level("INFO")
    truth = ground_truth([(1, 1, (10, 10, 40, 40), mark)])
    assert score(truth, {1: []}).ap == 0.0 and not caplog.records


def test_a_file_of_ignored_objects_alone_has_no_ap_and_says_so(caplog):
    truth = ground_truth([(1, 1, (10, 10, 40, 40), {"difficult": 1}), (1, 1, (90, 10, 40, 40), {"iscrowd": 1})])
    metrics = score(truth, {1: [(0, (10, 10, 40, 40), 0.9), (0, (300, 300, 40, 40), 0.8)]})
    assert all(math.isnan(v) for v in numbers(metrics))
    assert "no boxes that count, so there is no AP to measure on it" in caplog.text


class _WithIgnored(COCOeval):
    """pycocotools, which overwrites `ignore` by `iscrowd`; here it is kept."""

    def _prepare(self):
        super()._prepare()
        for one in (one for group in self._gts.values() for one in group):
            one["ignore"] = int(one["iscrowd"] or one.get("difficult", 0))


@settings(max_examples=30, deadline=None)
@given(placed, st.randoms(use_true_random=False))
def test_with_one_detection_an_object_difficult_ones_count_as_in_pycocotools_with_its_ignore_kept(rows, random):
    rows = [(i, c, b, {"difficult": int(random.random() < 0.4)}) for i, c, b in rows]
    truth, found = ground_truth(rows, ((1, "a"), (2, "b"), (3, "c")), images=(1, 2, 3, 4)), defaultdict(list)
    apart = {(image, category): box for image, category, box, _ in rows}  # one of each class: it cannot take another's
    truth["annotations"] = [
        a for a in truth["annotations"] if apart[a["image_id"], a["category_id"]] == tuple(a["bbox"])
    ]
    for (image, category), (x, y, w, h) in apart.items():
        moved = (x + random.uniform(-0.3, 0.3) * w, y + random.uniform(-0.3, 0.3) * h, w, h)
        found[image].append((category - 1, moved, random.random()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(by_pycocotools.__globals__, "COCOeval", _WithIgnored)
        want = by_pycocotools(truth, found, [1, 2, 3])
    np.testing.assert_allclose(numbers(score(truth, found, [1, 2, 3])), want, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(placed, placed, st.randoms(use_true_random=False))
def test_difficult_objects_far_from_all_others_change_nothing_found_or_not(rows, more, random):
    found = defaultdict(list)
    for image, category, (x, y, w, h) in rows:
        found[image].append((category - 1, (x + random.uniform(-0.5, 0.5) * w, y, w, h), random.random()))
    names = ((1, "a"), (2, "b"), (3, "c"))
    plain = numbers(score(ground_truth(rows, names, images=(1, 2, 3, 4)), found, [1, 2, 3]))
    far = [(i, c, (x + 5000, y, w, h), {"difficult": 1}) for i, c, (x, y, w, h) in more]
    for image, category, box, _ in far:
        found[image] += [(category - 1, box, random.random())] * random.randrange(3)
    with_far = numbers(score(ground_truth([*rows, *far], names, images=(1, 2, 3, 4)), found, [1, 2, 3]))
    few = [NUMBERS.index("ar_1"), NUMBERS.index("ar_10")]  # of the first one or ten, some are spent on ignored objects
    np.testing.assert_allclose(np.delete(with_far, few), np.delete(plain, few), rtol=0, atol=1e-12)


def test_an_annotation_id_of_zero_counts():
    """pycocotools takes an object with id 0 for never found; home-made files often count from 0."""
    truth = ground_truth([(1, 1, (10, 10, 40, 40))])
    truth["annotations"][0]["id"] = 0
    assert score(truth, {1: [(0, (10, 10, 40, 40), 0.9)]}).ap == 1.0


def test_a_home_made_file_without_area_and_categories_is_scored(tmp_path):
    truth = ground_truth([(1, 5, (10, 10, 40, 40))])
    del truth["categories"]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(truth), encoding="utf-8")
    metrics = score(path, {1: [(0, (10, 10, 40, 40), 0.9)]}, [5])
    assert (metrics.ap, metrics.ap_medium, metrics.per_class) == (1.0, 1.0, {"5": 1.0})


def test_the_area_of_the_file_decides_the_size_class():
    truth = ground_truth([(1, 1, (10, 10, 40, 40), {"area": 500.0})])
    metrics = score(truth, {1: [(0, (10, 10, 40, 40), 0.9)]})
    assert metrics.ap_small == 1.0
    assert math.isnan(metrics.ap_medium)


def test_an_image_that_comes_twice_counts_once():
    truth = ground_truth([(1, 1, (10, 10, 40, 40))])
    evaluator = CocoEvaluator(truth)
    evaluator.add([1], [detections([(0, (10, 10, 40, 40), 0.9)])])
    evaluator.add(torch.tensor([1]), [detections([(0, (300, 10, 40, 40), 0.95)])])
    assert evaluator.metrics().ap == 1.0


def test_only_the_images_asked_for_are_scored():
    truth = ground_truth([(1, 1, (10, 10, 40, 40)), (2, 1, (10, 10, 40, 40))], images=(1, 2))
    found = [detections([(0, (10, 10, 40, 40), 0.9)])]
    few, everything = CocoEvaluator(truth, image_ids=[1]), CocoEvaluator(truth)
    few.add([1], found)
    everything.add([1], found)
    assert few.metrics().ap == 1.0
    assert everything.metrics().ap == pytest.approx(51 / 101)  # recall 1/2: precision 1 at 0.00, ..., 0.50


def test_not_a_number_in_the_detections_is_left_out_with_a_warning(caplog):
    truth = ground_truth([(1, 1, (10, 10, 40, 40))])
    good = (0, (10, 10, 40, 40), 0.9)
    assert score(truth, {1: [(0, (math.nan,) * 4, 0.95), (0, (1, 1, 5, 5), math.nan), good]}).ap == 1.0
    assert "2 detections with a score or a box that is not finite" in caplog.text


def test_one_model_scored_twice_gives_the_same_numbers_quietly(capfd):
    truth = ground_truth([(1, 1, (10, 10, 40, 40))])
    evaluator = CocoEvaluator(truth)
    evaluator.add([1], [detections([(0, (12, 10, 40, 40), 0.9)])])
    assert evaluator.metrics().to_dict() == evaluator.metrics().to_dict()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("image_ids", "rows", "named"),
    [([9], [(0, (1, 1, 2, 2), 0.5)], "image id 9"), ([1], [(1, (1, 1, 2, 2), 0.5)], "image id 1: labels 1")],
)
def test_foreign_images_and_labels_are_refused_by_id(image_ids, rows, named):
    with pytest.raises(ValueError, match=named):
        CocoEvaluator(ground_truth([])).add(image_ids, [detections(rows)])


def test_a_broken_file_is_refused_by_name(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match=r"broken\.json.*cut off"):
        CocoEvaluator(path)
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"broken\.json: no 'annotations'"):
        CocoEvaluator(path)
    with pytest.raises(ValueError, match="annotation id 7 has no 'category_id'"):
        CocoEvaluator({"images": [{"id": 1}], "annotations": [{"id": 7, "image_id": 1, "bbox": [0, 0, 1, 1]}]})


def test_metrics_survive_json():
    metrics = CocoMetrics(*(0.1 * i for i in range(11)), math.nan, {"a": 0.5, "b": math.nan})
    back = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert back["ar_medium"] == 1.0 and back["ar_large"] is None and back["per_class"] == {"a": 0.5, "b": None}


# Whole tables, on sets made to be awkward

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
        crowds: fraction of crowd regions.
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


def tables_of_pycocotools(file: dict, results: dict) -> tuple[np.ndarray, np.ndarray]:
    """`[10, 101, C, 4, 3]` and `[10, C, 4, 3]`."""
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


def filled(file: dict, results: dict, **options) -> CocoEvaluator:
    evaluator = CocoEvaluator(file, **options)
    for image, (labels, boxes, scores) in results.items():  # not by rising id
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        evaluator.add([image], [Detections(*map(torch.from_numpy, (labels, corners, scores)))])
    return evaluator


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
@pytest.mark.parametrize("engine", coco_ap.ENGINES)
def test_every_table_is_that_of_pycocotools(name, how, engine, monkeypatch):
    monkeypatch.setattr(coco_ap, "_AT_ONCE", 40)  # a class or two at a time
    for seed in range(3):
        file, results = awkward(seed, **how)
        precision, recall = tables_of_pycocotools(file, results)
        ours = filled(file, results, engine=engine).tables()
        np.testing.assert_allclose(ours[0], precision, rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours[1], recall, rtol=0, atol=1e-12)
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
    precision, recall = tables_of_pycocotools(file, results)
    got = filled(file, results).metrics()
    mean = lambda table: table[table > -1].mean() if (table > -1).any() else np.nan  # noqa: E731
    want = [mean(precision[..., 0, -1]), mean(precision[0, ..., 0, -1]), mean(precision[5, ..., 0, -1])]
    want += [mean(precision[..., a, -1]) for a in (1, 2, 3)]
    want += [mean(recall[..., 0, m]) for m in range(3)] + [mean(recall[..., a, -1]) for a in (1, 2, 3)]
    np.testing.assert_allclose(list(vars(got).values())[:12], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", coco_ap.ENGINES)
def test_an_engine_counts_id_zero_and_ignored_objects_and_takes_no_detections(engine, capfd):
    truth = ground_truth([(1, 1, (10, 10, 40, 40)), (1, 1, (200, 200, 100, 100), {"ignore": 1})], ((1, "a"), (2, "b")))
    truth["annotations"][0]["id"] = 0
    evaluator = CocoEvaluator(truth, engine=engine)
    assert evaluator.metrics().ap == 0
    on_it = (0, (200, 200, 100, 100), 0.95), (0, (202, 200, 100, 100), 0.94)
    evaluator.add([1], [detections([(0, (10, 10, 40, 40), 0.9), *on_it])])
    assert evaluator.metrics().ap == pytest.approx(1)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_engine_is_refused_by_name():
    with pytest.raises(DfineError, match=r"faster-coco-eval or pycocotools, got 'fast'"):
        CocoEvaluator(ground_truth([]), engine="fast")


# The model's way


class Constant(torch.nn.Module):
    """Finds one object of class 0 in the middle of every image."""

    def forward(self, images):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        batch = len(images)
        box = torch.tensor([0.5, 0.5, 0.5, 0.5]).expand(batch, 1, 4)
        return SimpleNamespace(pred_logits=torch.tensor([[[3.0, -3.0]]]).expand(batch, 1, 2), pred_boxes=box)


def test_a_model_is_scored_and_left_in_its_mode():
    truth = ground_truth([(1, 1, (160, 120, 320, 240)), (2, 1, (25, 50, 50, 100))], images=(1, 2))
    batch = SimpleNamespace(
        images=torch.zeros(2, 3, 32, 32),
        image_ids=torch.tensor([1, 2]),
        sizes_wh=torch.tensor([[640, 480], [100, 200]]),
    )
    model = Constant().train()
    metrics = evaluate_model(model, [batch], CocoEvaluator(truth, [1, 2]), "cpu")
    assert metrics.ap == 1.0
    assert model.training
    again = evaluate_model(model.eval(), [batch], CocoEvaluator(truth, [1, 2]), "cpu")
    assert again.ap == 1.0
    assert not model.training


def test_labels_mean_what_the_loader_says_when_only_a_file_is_given():
    """The val file lists other categories, in another order, than the train split that the labels come from."""
    truth = ground_truth([(1, 7, (160, 120, 320, 240))], ((9, "b"), (7, "a"), (2, "c")))

    class Loader(list):
        index = SimpleNamespace(category_ids=(7, 9))

    batch = SimpleNamespace(images=torch.zeros(1, 3, 32, 32), image_ids=[1], sizes_wh=torch.tensor([[640, 480]]))
    assert evaluate_model(Constant(), Loader([batch]), truth, "cpu").per_class["a"] == 1.0


# Parity with recorded runs of pycocotools


@pytest.mark.parametrize(
    ("key", "truth_file", "found_file"),
    [
        ("val2014_fake100/bbox", "val2014_fake100/gt.json", "val2014_fake100/dt_bbox.json"),
        (
            "fce_small/gt_ignore.json + dt_ignore_min0.1.json bbox",
            "fce_small/gt_ignore.json",
            "fce_small/dt_ignore_min0.1.json",
        ),
    ],
)
def test_real_detections_give_the_recorded_numbers(key, truth_file, found_file):
    if not EVAL_PAIRS.exists():
        pytest.skip(f"needs {EVAL_PAIRS}")
    want = list(json.loads((EVAL_PAIRS / "expected.json").read_text())[key].values())
    truth = json.loads((EVAL_PAIRS / truth_file).read_text())
    category_ids = [c["id"] for c in truth["categories"]]
    found = defaultdict(list)
    for row in json.loads((EVAL_PAIRS / found_file).read_text()):
        found[row["image_id"]].append((category_ids.index(row["category_id"]), row["bbox"], row["score"]))
    got = numbers(score(EVAL_PAIRS / truth_file, found, category_ids))
    np.testing.assert_allclose(np.nan_to_num(got, nan=-1), want, rtol=0, atol=1e-12)


def test_ranks_exchange_their_detections_and_padding_counts_once(monkeypatch):
    truth = ground_truth([(1, 1, (10, 10, 40, 40)), (2, 1, (10, 10, 40, 40))], images=(1, 2))
    here, there = CocoEvaluator(truth), CocoEvaluator(truth)
    here.add([1], [detections([(0, (10, 10, 40, 40), 0.9)])])
    there.add([2, 1], [detections([(0, (10, 10, 40, 40), 0.8)]), detections([(0, (300, 10, 40, 40), 0.95)])])
    sent = []

    def all_gather(everyone, own):
        sent.append(own)
        everyone[:] = sent[:1] * 2 if len(sent) == 1 else sent

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather)
    here.gather(Ranks(size=2))  # alone, so that its share is recorded
    assert here.metrics().ap == pytest.approx(51 / 101)
    there.gather(Ranks(1, size=2))
    assert there.metrics().ap == 1.0
