"""Data folders that are laid out in another way: what they are told, and that it helps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dfine_lib.data import DataError, find_split
from dfine_tools.cli.remedies import with_remedy


def put(folder: Path, *paths: str) -> Path:
    for path in paths:
        place = folder / path
        (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            place.write_text("{}")
    return folder


def told(folder: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        find_split(folder, split)
    assert f"expected annotations/instances_{split}.json with images/{split}/" in str(error.value)
    return with_remedy(error.value)  # as the command line words it


@pytest.mark.parametrize(
    "paths",
    [
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "images/train2017/",
         "images/val2017/"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", "test/_annotations.coco.json"),  # Roboflow's
        ("annotations/train.json", "annotations/val.json", "train/", "val/"),
        ("train.json", "val.json", "images/"),
    ],
)  # fmt: skip
def test_coco_files_in_other_places_are_named_in_a_file_that_works(tmp_path, paths):
    folder = put(tmp_path / "set", *paths)
    message = told(folder)
    assert paths[0] in message  # what was found
    named = re.search(r"save this as (\S+) and give that as the data: (\{.*\})\.$", message)
    Path(named[1]).write_text(named[2])
    for split in ("train", "val"):
        annotation_file, images = find_split(named[1], split)
        assert annotation_file.is_file() and images.is_dir()
        assert split in str(annotation_file.relative_to(folder)) or "valid" in str(annotation_file)


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        (("data.yaml", "images/train/", "labels/train/a.txt"), "yolo"),
        (("train/images/a.jpg", "train/labels/a.txt"), "yolo"),
        (("Annotations/a.xml", "JPEGImages/a.jpg", "ImageSets/Main/train.txt"), "voc"),
        (("annotation_train.odgt", "Images/"), "crowdhuman"),
    ],
)
def test_other_formats_are_told_by_name_with_the_command_that_converts_them(tmp_path, paths, kind):
    assert f"dfine data convert {tmp_path} my_set --from {kind}" in told(put(tmp_path, *paths))


@pytest.mark.parametrize("year", ["", "2017"])
def test_a_folder_with_a_train_split_only_is_told_how_to_split_it(tmp_path, year):
    images = f"train{year}/" if year else "images/train/"
    put(tmp_path, f"annotations/instances_train{year}.json", images)
    assert f"`dfine data split {tmp_path} ready --val 0.2`" in told(tmp_path, "val")
    put(tmp_path, f"annotations/instances_val{year}.json")  # its pictures are missing: another case
    assert re.search(r"no val split; (?!.*dfine data split)", told(tmp_path, "val"))


def test_the_folder_above_and_an_annotation_file_itself_are_recognised(tmp_path):
    put(tmp_path, "COCO2017/annotations/instances_train2017.json", "COCO2017/train2017/")
    assert f"Did you mean {tmp_path / 'COCO2017'}?" in told(tmp_path)
    file = tmp_path / "instances_train.json"
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match="an annotation file itself"):
        find_split(file, "train")


@pytest.mark.parametrize("picture", ["a.JPG", "a.jfif", "a.gif", "a.AVIF"])
def test_one_annotation_file_beside_a_folder_of_pictures_is_told_the_command_that_makes_both_splits(tmp_path, picture):
    folder = put(tmp_path / "my photos", f"pictures/{picture}", "all.json")
    command = f"`dfine data split '{folder}/all.json' ready --images '{folder}/pictures' --val 0.2`"
    assert command in told(folder)
    (folder / "all.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match="an annotation file itself") as error:
        find_split(folder / "all.json", "train")
    assert command in with_remedy(error.value)
    put(folder, "other/b.png")  # two folders of pictures: which, is not for us to say
    assert "--images FOLDER_OF_IMAGES" in told(folder)
    put(folder, "more.json")
    assert "dfine data split" not in told(folder)


def test_a_folder_that_is_not_there_is_told_as_that(tmp_path):
    assert told(tmp_path / "nowhere").endswith("but there is no such folder. Is the path right?")
