"""The doctor's single judgements by hand, and the command as a person meets it."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from planted_faults import FAULTS, Folder, noise

from data_tools.doctor import examine, repair
from data_tools.doctor.duplicates import near_pairs, perceptual_hashes
from data_tools.doctor.pixels import look_at
from data_tools.doctor.reading import key_of
from data_tools.shapes import make_shapes
from dfine_lib.data.coco_columns import leaves_folder
from dfine_tools import cli


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("pictures") / "set", train=12, val=4, size=64, seed=5, progress=False)


def written(place, images, annotations, categories=({"id": 1, "name": "a"},)):
    """A folder of two annotation files with the same content, without pictures."""
    (place / "annotations").mkdir(parents=True)
    content = {"images": images, "annotations": annotations, "categories": list(categories)}
    for split in ("train", "val"):
        (place / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return place


def boxes_of(place, boxes_xywh, size_wh=(100, 80), each=4):
    count = -(-len(boxes_xywh) // each)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": size_wh[0], "height": size_wh[1]} for i in range(count)]
    annotations = [
        {"id": k, "image_id": k // each, "category_id": 1, "bbox": list(map(float, box)), "iscrowd": 0}
        for k, box in enumerate(boxes_xywh)
    ]
    return written(place, images, annotations)


@pytest.mark.parametrize(
    ("value", "key"),
    [(7, 7), (7.0, 7), ("7", 7), (" -7 ", -7), ("a", "a"), (1.5, None), (True, None), (None, None), (2**63, None),
     ("", None), ([1], None), (float("inf"), None)],
)  # fmt: skip
def test_what_an_id_means(value, key):
    assert key_of(value) == key


@pytest.mark.parametrize(
    ("name", "leaves"),
    [("a.jpg", False), ("a/b.jpg", False), ("a..b.jpg", False), ("../a.jpg", True), ("a/../../b", True), ("/a", True),
     ("C:\\a", True), ("a\\..\\b", True)],
)  # fmt: skip
def test_which_names_leave_their_folder(name, leaves):
    assert leaves_folder(name) is leaves


def random_boxes(count, seed=0, size_wh=(100, 80)):
    draw = np.random.RandomState(seed)
    side = draw.uniform(0.1, 0.45, (count, 2)) * size_wh
    return np.concatenate([draw.uniform(0, 1, (count, 2)) * (np.array(size_wh) - side), side], 1).round(2)


def writings(found):
    return {name for name in found.names if name.startswith("boxes_")}


@pytest.mark.parametrize("seed", range(4))
def test_boxes_as_coco_writes_them_are_never_taken_for_another_writing(tmp_path, seed):
    assert not writings(examine(boxes_of(tmp_path / "set", random_boxes(200, seed)), look_at_images=False))


def test_boxes_that_reach_out_on_all_sides_are_no_other_writing(tmp_path):
    boxes = random_boxes(200)
    boxes[:, :2] += np.random.RandomState(1).uniform(-30, 30, (200, 2))  # full bodies, as CrowdHuman has them
    found = examine(boxes_of(tmp_path / "set", boxes), look_at_images=False)
    assert not writings(found) and "box_sticks_out" in found.names


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("boxes_as_corners", lambda b: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1)),
        ("boxes_as_centres", lambda b: np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], 1)),
        ("boxes_as_fractions", lambda b: b / [100, 80, 100, 80]),
        ("boxes_as_fractions", lambda b: np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], 1) / [100, 80, 100, 80]),
        ("boxes_as_fractions", lambda b: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1) / [100, 80, 100, 80]),
    ],
    ids=["corners", "centres", "fractions", "fractions of centres", "fractions of corners"],
)
def test_another_writing_is_found_and_the_repair_gives_the_boxes_that_were_meant(tmp_path, name, write, seed):
    meant = random_boxes(120, seed)
    found = examine(boxes_of(tmp_path / "set", write(meant)), look_at_images=False)
    assert writings(found) == {name}
    copy = repair(found, tmp_path / "copy").out
    mended = json.loads((copy / "annotations" / "instances_train.json").read_text())["annotations"]
    np.testing.assert_allclose([one["bbox"] for one in mended], meant, atol=1e-3)


def grey_of(picture):
    return np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX))


def test_near_pairs_are_found_through_compression_scaling_and_brightness_and_no_others(tmp_path):
    pictures = [noise(seed, (200, 160)) for seed in range(60)]
    near = [one.resize((120, 90)).point(lambda v: min(255, v + 5)) for one in pictures[:10]]
    for number, one in enumerate(near):
        one.save(tmp_path / f"{number}.jpg", quality=50)
    near = [Image.open(tmp_path / f"{number}.jpg") for number in range(10)]
    grey = np.stack([grey_of(one) for one in pictures + near])
    assert near_pairs(grey) == [(number, 60 + number) for number in range(10)]


def test_a_hash_is_64_bits_half_of_them_set_and_does_not_see_brightness():
    grey = np.stack([grey_of(noise(seed, (64, 64))) for seed in range(5)]) // 2
    bits = perceptual_hashes(grey)
    assert bits.shape == (5, 64)
    assert (bits.sum(1) == 32).all()
    assert (bits != perceptual_hashes(grey + 40)).mean() < 0.02


def test_pictures_of_one_colour_are_not_all_near_duplicates_of_each_other():
    assert near_pairs(np.stack([np.full((32, 32), value, np.uint8) for value in (10, 10, 200)])) == []


def test_a_repeated_box_is_told_once_and_the_first_stays(tmp_path):
    boxes = [[10, 10, 20, 20], [50, 10, 20, 20], [10, 10, 20, 20], [10, 10, 20, 20.5]]
    found = examine(boxes_of(tmp_path / "set", boxes), look_at_images=False)
    told = {one.name: one for one in found.findings if one.split == "train"}
    assert told["box_repeated"].rows.tolist() == [2]
    assert told["box_nearly_repeated"].rows.tolist() == [3]


def test_twenty_thousand_images_are_examined_in_seconds(tmp_path):
    place = boxes_of(tmp_path / "set", random_boxes(100_000), each=5)
    start = time.perf_counter()
    examine(place, look_at_images=False)
    assert time.perf_counter() - start < 30  # 2.5 s on a free machine


# ---- the command -----------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.words = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        assert tag != "script"

    def handle_data(self, data):
        self.words.append(data)


def test_the_command_answers_1_with_findings_a_page_numbers_and_a_copy_that_answers_0(pictures, tmp_path, capsys):
    folder = Folder(pictures, tmp_path / "set")
    for name in ("box_outside", "image_truncated", "box_sticks_out", "image_alpha"):
        FAULTS[name](folder)
    place, copy = folder.save(), tmp_path / "copy"
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    assert cli.main(["doctor", str(place), "--fix", str(copy), "--html", str(page), "--json", str(numbers)]) == 1
    told = capsys.readouterr().out
    assert "ERROR box_outside [train]" in told and "ERROR image_truncated [train]" in told
    assert "annotation id" in told and "--fix drops the annotation" in told
    found = json.loads(numbers.read_text())
    assert {"box_outside", "image_truncated"} <= {one["name"] for one in found["findings"]}
    assert found["counts"]["error"] == 2
    reader = _Page()
    reader.feed(page.read_text())
    assert len(reader.sources) >= 2  # thumbnails: of the boxes and of the picture with alpha
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert any("wholly outside" in word for word in reader.words)
    assert cli.main(["doctor", str(copy)]) == 0
    assert json.loads((copy / "repairs.json").read_text())["done"]


def test_the_command_answers_2_where_it_cannot_examine(tmp_path, capsys):
    assert cli.main(["doctor", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert cli.main(["doctor", str(tmp_path), "--recipe", "n_costum"]) == 2
    assert "n_custom" in capsys.readouterr().err
    assert cli.main(["doctor", str(tmp_path), "--image-size", "100"]) == 2
    assert "multiple of 32" in capsys.readouterr().err


def test_an_empty_folder_is_an_error_that_is_told_not_raised(tmp_path, capsys):
    assert cli.main(["doctor", str(tmp_path)]) == 1
    assert "ERROR split_missing [train]" in capsys.readouterr().out


def test_the_input_size_decides_what_vanishes(tmp_path):
    place = boxes_of(tmp_path / "set", random_boxes(60) / [1, 1, 8, 8])
    assert "fit_vanishing" not in examine(place, image_size=640, look_at_images=False).names
    assert "fit_vanishing" in examine(place, image_size=64, look_at_images=False).names


def test_the_recipe_decides_how_many_objects_are_too_many(tmp_path):
    boxes = [[i, j, 5, 5] for i in range(10) for j in range(6)]
    place = boxes_of(tmp_path / "set", boxes, each=60)
    assert "fit_queries" not in examine(place, recipe="n_custom", look_at_images=False).names
    assert "fit_queries" in examine(place, recipe="pico_custom", look_at_images=False).names


def test_a_picture_in_lab_colours_is_read_as_training_reads_it(tmp_path):
    noise(3, (64, 48)).convert("LAB").save(tmp_path / "a.tif")
    found = look_at([tmp_path / "a.tif"], tmp_path)[0]
    assert found.problem == "" and len(found.grey) == 32 * 32
