"""A data folder in numbers, by hand; and the command's page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from data_tools.stats import anchors_inside, some_images, statistics
from dfine_lib.data.images import DataError
from dfine_tools import cli


@pytest.fixture
def folder(tmp_path):
    """Two images of 200 x 100 and one without boxes; five sound boxes, one crowd and one without an area in train."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 100} for i in (3, 4, 5)]
    boxes = [
        (3, 7, [0, 0, 20, 10], 0), (3, 7, [150, 50, 40, 40], 0), (3, 9, [0, 0, 200, 100], 0),
        (4, 9, [0, 0, 100, 100], 1), (4, 7, [10, 10, 0, 5], 0), (4, 7, [199, 99, 1, 1], 0), (4, 7, [0, 0, 2, 2], 0),
    ]  # fmt: skip
    annotations = [
        {"id": k, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
        for k, (image, category, box, crowd) in enumerate(boxes, 1)
    ]
    categories = [{"id": 7, "name": "nut"}, {"id": 9, "name": "bolt"}]
    (tmp_path / "annotations").mkdir()
    for split, kept in (("train", annotations), ("val", annotations[:1])):
        (tmp_path / "images" / split).mkdir(parents=True)
        for image in images:
            Image.new("RGB", (200, 100), "teal").save(tmp_path / "images" / split / image["file_name"])
        content = {"images": images, "annotations": kept, "categories": categories}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path


def test_numbers_worked_out_by_hand(folder):
    train, val = statistics(folder, image_size=100).splits
    assert (train.images, train.images_without_boxes, train.boxes) == (3, 1, 5)
    assert train.objects_an_image == (1.67, 2.0, 3)
    assert train.small_medium_large == (3, 1, 1)
    assert train.per_class.tolist() == [4, 1]
    # side at the input: 100 * sqrt(20/200 * 10/100) = 10
    np.testing.assert_allclose(train.sides_px, [10, 100 * np.sqrt(0.2 * 0.4), 100, 100 * np.sqrt(1 / 20000),
                                                100 * np.sqrt(4 / 20000)])  # fmt: skip
    assert train.centres.sum() == 5
    assert train.centres[20, 20] == 1 and train.centres[39, 39] == 1  # the whole image, the last pixel
    assert (val.boxes, val.per_class.tolist()) == (1, [1, 0])


def test_anchors_inside_worked_out_by_hand_and_as_the_decoder_makes_them():
    from dfine_lib.model.decoder import make_anchors

    whole, left, middle = [0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0.5, 0.5, 0.5]
    assert anchors_inside(np.array([whole, left, middle]), 128, (16, 32)).tolist() == [64 + 16, 32 + 8, 0]
    boxes = np.random.default_rng(0).random((50, 4)) * 0.6
    boxes[:, 2:] += boxes[:, :2]
    anchors, valid = make_anchors([(80, 80), (40, 40), (20, 20)])
    x, y = anchors[0, valid[0, :, 0], :2].sigmoid().double().numpy().T
    inside = (boxes[:, 0, None] <= x) & (x < boxes[:, 2, None]) & (boxes[:, 1, None] <= y) & (y < boxes[:, 3, None])
    assert anchors_inside(boxes, 640, (8, 16, 32)).tolist() == inside.sum(1).tolist()


def test_classes_are_joined_by_name_where_the_splits_number_them_differently(folder):
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 7, "name": "bolt"}, {"id": 1, "name": "washer"}]
    file.write_text(json.dumps(content))
    found = statistics(folder)
    assert found.names == ("nut", "bolt", "washer")
    assert found.splits[1].per_class.tolist() == [0, 1, 0]


def test_the_same_seed_draws_the_same_pictures_and_broken_ones_are_passed_over(folder):
    (folder / "images" / "train" / "4.png").write_bytes(b"broken")
    found = statistics(folder)
    one, two = some_images(found, seed=1), some_images(found, seed=1)
    assert list(one) == list(two) and set(one) == {"3.png", "5.png"}
    image, boxes, labels = one["3.png"]
    assert image.shape == (3, 100, 200) and boxes.tolist()[1] == [150, 50, 190, 90] and labels == [0, 0, 1]


def test_a_large_picture_is_drawn_small_and_its_boxes_follow(folder):
    """Nine pictures of 80 megapixels on a page would take 6 GB."""
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    image = content["images"][0]
    image["width"], image["height"] = 4000, 2000
    Image.new("RGB", (4000, 2000)).save(folder / "images" / "train" / image["file_name"])
    for box in content["annotations"]:
        if box["image_id"] == image["id"]:
            box["bbox"] = [1000, 500, 2000, 1000]
    file.write_text(json.dumps(content))
    shown, boxes, _ = some_images(statistics(folder))[image["file_name"]]
    assert shown.shape == (3, 512, 1024) and boxes[0].tolist() == [256, 128, 768, 384]


def test_the_command_prints_writes_numbers_and_a_page_of_its_own(folder, tmp_path, capsys):
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    assert cli.main(["stats", str(folder), "--image-size", "320", "--html", str(page), "--json", str(numbers)]) == 0
    told = capsys.readouterr().out
    assert "train: 3 images, 1 without boxes" in told and "nut   train 4, val 1" in told
    found = json.loads(numbers.read_text())
    assert found["image_size"] == 320 and found["per_class"]["bolt"] == {"train": 1, "val": 0}
    assert page.read_text().count("data:image/png;base64,") == 5


def test_a_folder_without_any_box_still_has_a_page(folder, tmp_path):
    for split in ("train", "val"):
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    assert (
        cli.main(["stats", str(folder), "--html", str(tmp_path / "page.html"), "--json", str(tmp_path / "n.json")]) == 0
    )


def test_bad_input_is_refused_in_words(tmp_path, capsys):
    with pytest.raises(DataError, match="no train split"):
        statistics(tmp_path)
    with pytest.raises(ValueError, match="positive"):
        statistics(tmp_path, image_size=0)
    assert cli.main(["stats", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
