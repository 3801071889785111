"""One list of split names for all formats."""

from pathlib import PurePosixPath

import pytest

from data_tools.convert.splits import known_split, split_name, split_of_file, split_of_folders
from dfine_lib.data.images import DataError


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("trainval", "train"), ("train-val", "train"),
        ("train2017", "train"), ("train_2014", "train"), ("2012_train", "train"), ("val", "val"), ("valid", "val"),
        ("Validation", "val"), ("dev", "val"), ("val2017", "val"), ("test", "test"), ("Testing", "test"),
        ("night", None), ("training set", None), ("2017", None), ("default", None), ("vals", None), ("train1", None),
    ],
)  # fmt: skip
def test_a_split_is_known_in_any_case_and_with_a_year(word, split):
    assert known_split(word) == split


def test_an_unknown_split_keeps_its_own_name():
    assert [split_name(name) for name in (" Night ", "Nacht-2", "训练", "minival2014", "Valid")] == [
        "Night", "Nacht-2", "训练", "minival2014", "val"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", ".hidden", "x" * 41, "a\0b", "a\\b"])
def test_a_split_that_cannot_name_a_folder_is_refused(name):
    with pytest.raises(DataError, match="name of a split"):
        split_name(name)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/_annotations.coco.json", "train"), ("valid/labels.csv", "val"), ("annotations/val.json", "val"),
        ("train-annotations-bbox.csv", "train"), ("annotation_val.odgt", "val"), ("Testing/a.json", "test"),
        ("labels.json", None), ("train_val.csv", "train"), ("train-test.csv", None),
        ("instances_minival2014.json", None), ("cups/2017/a.csv", None),
    ],
)  # fmt: skip
def test_an_annotation_file_tells_its_split_by_its_folders_and_then_by_its_words(path, split):
    assert split_of_file(PurePosixPath(path)) == split


def test_the_first_folder_that_names_a_split_counts():
    assert split_of_folders(("VOC2007", "Train", "test")) == "train"
    assert split_of_folders(("photos", "2017")) is None
