import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from data_tools import digits, shapes
from data_tools.coco_folder import Plan, encode_png

SMALL = {"train": 3, "val": 2, "size": 64, "progress": False}


def test_a_png_reads_back_as_the_same_pixels():
    pixels = np.random.RandomState(0).randint(0, 256, (150, 170, 3)).astype(np.uint8)
    assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)  # more than one stored block


@pytest.mark.parametrize(
    ("make", "names"), [(shapes.make_shapes, shapes.CLASSES), (digits.make_digits, digits.CLASSES)]
)
def test_the_folder_is_a_coco_folder(tmp_path, make, names):
    out = make(tmp_path / "deep" / "set", **SMALL, seed=4)
    assert out == tmp_path / "deep" / "set"
    for split, count in (("train", 3), ("val", 2)):
        data = json.loads((out / "annotations" / f"instances_{split}.json").read_text())
        assert [image["id"] for image in data["images"]] == list(range(1, count + 1))
        assert [found["id"] for found in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
        assert [(category["id"], category["name"]) for category in data["categories"]] == list(enumerate(names, 1))
        assert data["info"]["seed"] == 4
        assert data["info"]["split"] == split
        assert sorted(os.listdir(out / "images" / split)) == [image["file_name"] for image in data["images"]]
        for image in data["images"]:
            with Image.open(out / "images" / split / image["file_name"]) as opened:
                assert opened.size == (image["width"], image["height"]) == (64, 64)
        for found in data["annotations"]:
            assert 1 <= found["image_id"] <= count
            assert 1 <= found["category_id"] <= 10
            assert found["iscrowd"] == 0
            assert found["area"] > 0


def test_a_set_that_is_there_is_used_again_without_drawing(tmp_path, monkeypatch):
    out = shapes.make_shapes(tmp_path / "set", **SMALL)
    monkeypatch.setattr(shapes, "sample", lambda *_: pytest.fail("drew an image"))
    assert shapes.make_shapes(tmp_path / "set", **SMALL) == out


def test_other_parameters_are_refused_and_named(tmp_path):
    shapes.make_shapes(tmp_path / "set", **SMALL)
    with pytest.raises(ValueError, match="seed is 0, asked for 1"):
        shapes.make_shapes(tmp_path / "set", **SMALL, seed=1)
    with pytest.raises(ValueError, match="name is 'shapes', asked for 'digits'"):
        digits.make_digits(tmp_path / "set", **SMALL)


def test_a_folder_of_somebody_elses_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(ValueError, match="not empty"):
        shapes.make_shapes(tmp_path, **SMALL)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "set").mkdir()
    assert (shapes.make_shapes(tmp_path / "set", **SMALL) / "images" / "val" / "000002.png").is_file()


def test_a_run_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    whole = shapes.sample

    def fails_at_the_third(seed, index, size):
        if index == 2:
            raise KeyboardInterrupt
        return whole(seed, index, size)

    monkeypatch.setattr(shapes, "sample", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        shapes.make_shapes(tmp_path / "set", **SMALL)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_is_removed_but_a_running_one_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    killed, running = tmp_path / f".set.partial-{ended.pid}", tmp_path / f".set.partial-{os.getppid()}"
    for folder in (killed, running):
        (folder / "images" / "train").mkdir(parents=True)
    shapes.make_shapes(tmp_path / "set", **SMALL)
    assert not killed.exists()
    assert running.exists()


@pytest.mark.parametrize(
    ("key", "value"), [("train", 0), ("val", -1), ("size", 32), ("size", 160.0), ("seed", 2**32), ("train", True)]
)
def test_a_parameter_out_of_range_is_refused(key, value):
    parameters = {"name": "shapes", "version": 1, "train": 1, "val": 1, "size": 64, "seed": 0, key: value}
    with pytest.raises(ValueError, match=f"{key} must be a whole number .* got {value}"):
        Plan(**parameters)


@pytest.mark.parametrize("main", [shapes.main, digits.main])
def test_the_command_line_says_what_it_made_and_answers_2_to_bad_input(main, tmp_path, capsys):
    out = str(tmp_path / "set")
    assert main([out, "--train", "2", "--val", "1", "--size", "64", "--quiet"]) == 0
    assert "2 train + 1 val images of 64 px" in capsys.readouterr().out
    assert main([out, "--train", "2", "--val", "1", "--size", "64", "--quiet"]) == 0
    assert "there already" in capsys.readouterr().out
    assert main([out, "--train", "2", "--val", "1", "--size", "63", "--quiet"]) == 2
    assert "size must be" in capsys.readouterr().err
    assert main([out, "--train", "5", "--val", "1", "--size", "64", "--quiet"]) == 2
    assert "train is 2, asked for 5" in capsys.readouterr().err
    assert main([str(tmp_path / "set" / "data_set.json" / "x"), "--train", "2", "--val", "1", "--quiet"]) == 2
    assert capsys.readouterr().err
