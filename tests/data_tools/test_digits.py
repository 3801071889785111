import hashlib
import json

import numpy as np
from numpy.testing import assert_array_equal

from data_tools import digits
from data_tools.coco_folder import VAL_START, encode_png
from data_tools.draws import Draws

RECORDED = ["3a7dfda349e3a715", "95e555990677ea42", "9a54fe1c5cc93a4b", "7b01faadb8c3fa22"]


def fingerprint(seed, index, size=160):
    pixels, annotations = digits.sample(seed, index, size)
    return hashlib.sha256(encode_png(pixels) + json.dumps(annotations).encode()).hexdigest()[:16]


def test_the_same_seed_gives_the_bytes_recorded_when_the_set_was_made():
    assert [fingerprint(0, 0), fingerprint(7, 3), fingerprint(0, VAL_START), fingerprint(0, 1, 96)] == RECORDED


def test_an_image_does_not_depend_on_the_ones_drawn_before_it():
    alone = fingerprint(3, 5)
    for index in range(5):
        fingerprint(3, index)
    assert fingerprint(3, 5) == alone
    assert len({fingerprint(3, 5), fingerprint(3, 6), fingerprint(4, 5), fingerprint(3, VAL_START + 5)}) == 4


def test_train_and_val_share_no_digit_and_no_sheet():
    labels = digits.digits()[1]
    first = digits.FIRST_VAL_DIGIT
    assert labels[first : first + 30].tolist() == list(range(10)) * 3  # how every writer's sheet begins
    train = {found["digit"] for index in range(60) for found in digits.sample(2, index)[1]}
    val = {found["digit"] for index in range(60) for found in digits.sample(2, VAL_START + index)[1]}
    assert max(train) < first <= min(val)


def test_every_class_has_enough_samples_on_either_side():
    labels = digits.digits()[1]
    assert len(labels) == 1797
    assert np.bincount(labels[: digits.FIRST_VAL_DIGIT]).min() > 100
    assert np.bincount(labels[digits.FIRST_VAL_DIGIT :]).min() > 25


def test_categories_are_the_labels_and_boxes_lie_in_the_image_hardly_overlapping():
    labels = digits.digits()[1]
    for index in range(40):
        pixels, annotations = digits.sample(9, index)
        assert pixels.shape == (160, 160, 3)
        assert 1 <= len(annotations) <= 6
        taken = np.zeros((160, 160), int)
        for found in annotations:
            assert digits.CLASSES[found["category_id"] - 1] == str(labels[found["digit"]])
            x, y, width, height = found["bbox"]
            assert min(x, y) >= 0
            assert max(x + width, y + height) <= 160
            assert 0 < found["area"] <= width * height
            taken[y : y + height, x : x + width] += 1
        assert (taken > 1).sum() <= 0.25 * (taken > 0).sum()


def test_the_box_is_tight_about_the_ink(monkeypatch):
    inked = []
    monkeypatch.setattr(digits, "_write", lambda canvas, ink, left, top, colour: inked.append((ink, left, top)))
    _, annotations = digits.sample(4, 2)
    assert len(inked) == len(annotations) > 0
    for (ink, left, top), found in zip(inked, annotations, strict=True):
        x, y, width, height = found["bbox"]
        rows, columns = np.nonzero(ink > digits.INK_THRESHOLD * 0.8)  # at the least density of ink
        assert columns.min() + left <= x
        assert columns.max() + 1 + left >= x + width
        rows, columns = np.nonzero(ink > digits.INK_THRESHOLD)
        assert x <= columns.min() + left
        assert y <= rows.min() + top
        assert x + width >= columns.max() + 1 + left
        assert y + height >= rows.max() + 1 + top


def test_ink_is_a_share_and_ends_before_the_patch_does():
    for digit in range(0, 1797, 60):
        ink = digits.handwriting(Draws(1, digit), digit, 30.0)
        assert ink.min() >= 0
        assert ink.max() <= 1
        assert (ink > digits.INK_THRESHOLD).sum() > 30
        assert not ink[[0, -1]].any()
        assert not ink[:, [0, -1]].any()


def test_two_runs_write_the_same_bytes(tmp_path):
    digits.make_digits(tmp_path / "a", train=3, val=2, size=96, seed=5, progress=False)
    digits.make_digits(tmp_path / "b", train=3, val=2, size=96, seed=5, progress=False)
    for file in (path for path in (tmp_path / "a").rglob("*") if path.is_file()):
        assert_array_equal(
            np.frombuffer(file.read_bytes(), np.uint8),
            np.frombuffer((tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), np.uint8),
        )
