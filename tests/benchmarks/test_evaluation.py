"""The benchmark of evaluation: made input is what it says, and its sides give the same numbers."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from benchmarks.evaluation import DETECTIONS, made_up, ours, peak_gb, theirs


@pytest.mark.parametrize("package", ["pycocotools", "faster_coco_eval"])
def test_every_side_gives_the_same_twelve_numbers(package):
    pytest.importorskip(package, reason=f"needs {package}")
    file, found = made_up(12, seed=3)
    with contextlib.redirect_stdout(io.StringIO()):
        parts, numbers = theirs(package.replace("_", "-"))(file, found)()
    own_parts, own = ours(file, found)()
    np.testing.assert_allclose(own, numbers, rtol=0, atol=1e-12)
    assert 0.02 < own[0] < 0.9 and all(seconds > 0 for seconds in (*parts.values(), *own_parts.values()))


def test_made_detections_are_as_a_model_gives_them():
    file, found = made_up(8)
    assert len(file["images"]) == len(found) == 8 and {len(one) for one in found} == {DETECTIONS}
    assert all(
        (one.scores.diff() <= 0).all() and (one.boxes_xyxy[:, 2:] > one.boxes_xyxy[:, :2]).all() for one in found
    )
    again = made_up(8)
    assert again[0] == file and (again[1][3].boxes_xyxy == found[3].boxes_xyxy).all()


def test_the_most_memory_of_a_process_does_not_shrink():
    before = peak_gb()
    block = np.ones(30_000_000 // 8)
    assert peak_gb() >= before > 0.05 and block[-1] == 1
