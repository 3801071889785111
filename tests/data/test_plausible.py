from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from dfine_lib.data import DataError, read_coco
from dfine_lib.data.coco_checks import written_as_fractions
from dfine_tools.cli import main
from dfine_tools.cli.remedies import with_remedy


def judged(boxes, image_of=None, size_wh=(64, 48)) -> list[bool]:
    boxes = np.array(boxes, np.float64)
    image_of = np.arange(len(boxes)) if image_of is None else np.array(image_of)
    return written_as_fractions(boxes, np.tile(size_wh, (len(boxes), 1)), image_of).tolist()


FRACTION, PIXELS = [0.2, 0.3, 0.25, 0.5], [10, 20, 30, 8]


def test_a_file_of_fractions_is_one_whatever_single_boxes_look_like():
    assert judged([FRACTION] * 3) == [True] * 3
    assert judged([FRACTION, FRACTION, FRACTION, [0, 0, 1, 1]]) == [True] * 4  # the whole image
    assert judged([FRACTION, FRACTION, FRACTION, [-0.1, 0.5, 1.2, 0.4]]) == [True] * 4  # reaches out of the image
    assert judged([FRACTION, FRACTION, FRACTION, PIXELS]) == [True, True, True, False]


def test_images_of_fractions_in_a_file_of_pixels_are_found_by_two_boxes():
    boxes = [FRACTION, FRACTION, PIXELS, PIXELS, PIXELS]
    assert judged(boxes, [0, 0, 1, 1, 2]) == [True, True, False, False, False]
    assert not any(judged([FRACTION, PIXELS, PIXELS, PIXELS, PIXELS], [0, 0, 1, 1, 2]))


@pytest.mark.parametrize("odd", [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0.2, 0.3, 0.5, 0.5]])
def test_one_box_of_a_pixel_in_a_file_of_pixels_is_no_fraction(odd):
    assert not any(judged([odd, PIXELS, PIXELS, PIXELS]))


def test_placeholders_and_tiny_images_are_no_fractions():
    assert not any(judged([[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]]))
    assert not any(judged([FRACTION] * 3, size_wh=(8, 8)))
    assert judged(np.zeros((0, 4))) == []


@pytest.mark.parametrize("training", [True, False])
def test_a_file_of_fractions_is_refused_with_what_was_found(write, content, training):
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x / 64, y / 48, w / 64, h / 48]
    file, folder = write(content)
    with pytest.raises(DataError, match=r"lies within 0\.\.1: a fraction of the image, not pixels") as e:
        read_coco(file, folder, training=training)
    for word in (
        str(file),
        "annotation id 5 of image id 9",
        "bbox [0.15625, ",
        "64 x 48",
        "3 such annotations of 3",
        "dfine doctor",
    ):
        assert word in with_remedy(e.value)


def test_train_refuses_fractions_and_its_advice_works(content, tmp_path, capsys):
    data, out = tmp_path / "set", tmp_path / "out"
    (data / "annotations").mkdir(parents=True)
    for annotation in content["annotations"]:
        annotation["bbox"] = (np.array(annotation["bbox"]) / [64, 48, 64, 48]).tolist()
    for k, split in enumerate(("train", "val")):
        (data / "images" / split).mkdir(parents=True)
        for image in content["images"]:
            noise = np.random.default_rng(image["id"] + 1000 * k).integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(noise).save(data / "images" / split / image["file_name"])
        (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))

    assert main(["train", "--recipe", "pico", "--data", str(data), "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "a fraction of the image" in message and "dfine doctor DATA --fix OUT" in message
    main(["doctor", str(data), "--fix", str(out)])
    meant = [[0.5, 1.5, 2.5, 4.5], [10, 20, 40, 28], [0, 0, 64, 48]]
    for split in ("train", "val"):
        repaired = read_coco(out / "annotations" / f"instances_{split}.json", out / "images" / split)
        np.testing.assert_allclose(repaired.boxes_xyxy, meant, atol=1e-4)
