from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dfine_lib.data import DataError, check_images, find_split, read_coco

REAL = Path(__file__).parents[3] / "shared" / "data"


def refused(write, content, *mentions, **options) -> str:
    """The message that the content is refused with; it names the file and whatever else is expected."""
    file, folder = write(content)
    with pytest.raises(DataError) as error:
        read_coco(file, folder, **options)
    for mention in (str(file), *mentions):
        assert str(mention) in str(error.value)
    return str(error.value)


def test_a_file_of_three_boxes_worked_out_by_hand(write, content):
    file, folder = write(content)
    index = read_coco(file, folder)
    assert len(index) == 2
    assert index.image_ids.tolist() == [70, 9]
    assert index.sizes_wh.tolist() == [[64, 48], [64, 48]]
    assert [index.file_name(i) for i in range(2)] == [folder / "b.png", folder / "a.png"]
    assert index.category_ids == (4, 90)
    assert index.category_names == ("plane", "brush")
    assert index.num_classes == 2
    assert_array_equal(index.targets(0)[0], [0])
    assert_array_equal(index.targets(0)[1], np.float32([[0.5, 1.5, 2.5, 4.5]]))
    assert_array_equal(index.targets(1)[0], [1, 0])
    assert_array_equal(index.targets(1)[1], np.float32([[10, 20, 40, 28], [0, 0, 64, 48]]))


def test_everything_is_packed_in_arrays_of_the_stated_types(write, content):
    index = read_coco(*write(content))
    types = {
        "image_ids": "int64",
        "sizes_wh": "int32",
        "name_bytes": "uint8",
        "name_offsets": "int64",
        "box_offsets": "int64",
        "boxes_xyxy": "float32",
        "labels": "int64",
        "iscrowd": "bool",
    }
    assert {name: str(getattr(index, name).dtype) for name in types} == types


def test_training_leaves_out_crowd_and_zero_area_clamps_and_counts(write, content):
    content["annotations"] += [
        {"id": 11, "image_id": 9, "category_id": 4, "bbox": [1, 1, 5, 5], "iscrowd": 1},
        {"id": 12, "image_id": 9, "category_id": 4, "bbox": [1, 1, 0, 5], "iscrowd": 0},
        {"id": 13, "image_id": 9, "category_id": 4, "bbox": [-6, 40, 10, 20]},
    ]
    index = read_coco(*write(content))
    assert index.dropped == {"crowd": 1, "zero_area": 1, "clamped": 1}
    assert_array_equal(index.targets(1)[1][-1], [0, 40, 4, 48])
    assert len(index.labels) == 4
    assert not index.iscrowd.any()


def test_what_is_marked_ignore_is_left_out_of_training_and_difficult_boxes_are_trained_on_and_both_are_said(
    write, content, caplog
):
    caplog.set_level("INFO")
    before = len(read_coco(*write(content)).labels)
    marks = {"ignore": 1}, {"ignore": "1", "difficult": 1}, {"difficult": True}, {"ignore": None}
    content["annotations"] += [
        {"id": 11 + i, "image_id": 9, "category_id": 4, "bbox": [1, 1, 5, 5], **mark} for i, mark in enumerate(marks)
    ]
    index = read_coco(*write(content))
    assert index.dropped["crowd"] == 2 and len(index.labels) == before + 2
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "2 boxes crowd" in said and "2 boxes marked difficult are trained on; an evaluation ignores them" in said
    whole = read_coco(*write(content), training=False)
    assert len(whole.labels) == before + 4 and whole.iscrowd.sum() == 2


def test_evaluation_keeps_every_box_as_the_file_has_it(write, content):
    content["annotations"] += [
        {"id": 11, "image_id": 9, "category_id": 4, "bbox": [1, 1, 5, 5], "iscrowd": 1},
        {"id": 12, "image_id": 9, "category_id": 4, "bbox": [1, 1, 0, 5]},
        {"id": 13, "image_id": 9, "category_id": 4, "bbox": [-6, 40, 10, 20]},
    ]
    index = read_coco(*write(content), training=False)
    assert index.dropped == {"crowd": 0, "zero_area": 0, "clamped": 0}
    assert_array_equal(index.targets(1)[1][2:], np.float32([[1, 1, 6, 6], [1, 1, 1, 6], [-6, 40, 4, 60]]))
    assert index.iscrowd.tolist() == [False, False, False, True, False, False]


def test_a_hundredth_of_a_pixel_over_the_edge_is_clamped_but_not_counted(write, content):
    content["annotations"][0]["bbox"] = [34.005, 20, 30, 8]
    index = read_coco(*write(content))
    assert index.boxes_xyxy.max() <= 64
    assert index.dropped["clamped"] == 0


def test_images_without_boxes_are_kept(write, content):
    content["images"].insert(0, {"id": 1, "file_name": "empty.png", "width": 5, "height": 5})
    index = read_coco(*write(content))
    labels, boxes_xyxy = index.targets(0)
    assert len(index) == 3
    assert labels.shape == (0,)
    assert boxes_xyxy.shape == (0, 4)


def test_labels_of_a_val_file_follow_the_train_split(write, content):
    index = read_coco(*write(content), training=False, category_ids=(3, 4, 90))
    assert index.category_ids == (3, 4, 90)
    assert index.category_names == ("3", "plane", "brush")
    assert index.labels.tolist() == [1, 2, 1]


def test_a_val_file_may_list_a_category_that_no_annotation_uses(write, content):
    content["categories"].append({"id": 1000, "name": "never seen"})
    assert read_coco(*write(content), training=False, category_ids=(4, 90)).num_classes == 2


def test_whole_floats_and_booleans_count_as_ids_and_flags(write, content):
    content["annotations"][0] |= {"image_id": 9.0, "iscrowd": False}
    content["images"][0]["width"] = 64.0
    assert read_coco(*write(content)).sizes_wh.tolist() == [[64, 48], [64, 48]]


def test_names_with_blanks_and_other_letters_survive(write, content):
    content["images"][0]["file_name"] = "sub folder/Straße 猫.JPG"
    file, folder = write(content)
    assert read_coco(file, folder).file_name(0) == folder / "sub folder" / "Straße 猫.JPG"


def test_a_byte_order_mark_is_no_fault(write, content):
    assert len(read_coco(*write(b"\xef\xbb\xbf" + json.dumps(content).encode()))) == 2


def test_an_empty_val_annotation_list_is_no_fault_but_training_needs_boxes(write, content):
    content["annotations"] = []
    assert len(read_coco(*write(content), training=False)) == 2
    refused(write, content, "no boxes at all")


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json: cannot read"):
        read_coco(tmp_path / "nowhere.json", tmp_path)


def test_a_missing_image_folder_is_refused(write, content, tmp_path):
    file, _ = write(content)
    with pytest.raises(DataError, match="no such image folder"):
        read_coco(file, tmp_path / "nowhere")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(write, content, share):
    text = json.dumps(content)
    refused(write, text[: int(len(text) * share)], "cut off")
    refused(write, text[: text.index("}") + 1], "cut off")


def test_bytes_that_are_no_text_are_refused(write):
    refused(write, b"\x89PNG\r\n\x1a\n\xff\xff", "no valid JSON")


def test_deep_nesting_is_refused(write):
    refused(write, '{"images": ' + "[" * 200_000 + "]" * 200_000 + "}", "nested too deeply")


@pytest.mark.parametrize(("text", "kind"), [("[]", "a list"), ("3", "a number"), ("null", "null"), ('"a"', "text")])
def test_another_top_level_than_an_object_is_refused(write, text, kind):
    refused(write, text, "object", kind)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_missing_or_mistyped_list_is_refused(write, content, key):
    whole = content[key]
    refused(write, content | {key: {"0": whole}}, repr(key), "a list")
    refused(write, content | {key: [*whole, 5]}, f"{key}[{len(whole)}]", "an object")
    del content[key]
    refused(write, content, repr(key), "missing")


def test_no_images_and_no_categories_are_refused(write, content):
    refused(write, content | {"images": []}, "no images")
    refused(write, content | {"categories": [], "annotations": []}, "no categories", training=False)


RECORDS = [("images", 0, "image id 70"), ("annotations", 1, "annotation id 3"), ("categories", 0, "category id 90")]
REQUIRED = {
    "images": ["file_name", "width", "height"],
    "annotations": ["image_id", "category_id", "bbox"],
    "categories": ["name"],
}


@pytest.mark.parametrize(
    ("records", "i", "where", "key"), [(*record, key) for record in RECORDS for key in REQUIRED[record[0]]]
)
def test_a_missing_key_or_a_wrong_type_is_refused_by_id(write, content, records, i, where, key):
    for value in (None, [], {}):
        content[records][i][key] = value
        refused(write, content, where, key)
    del content[records][i][key]
    refused(write, content, where, key, "missing")


@pytest.mark.parametrize("records", REQUIRED)
@pytest.mark.parametrize("value", [None, "12", 1.5, True, [1], float("nan"), 2**70])
def test_an_id_that_is_no_whole_number_is_refused(write, content, records, value):
    content[records][0]["id"] = value
    refused(write, content, "id", "whole number")
    del content[records][0]["id"]
    refused(write, content, f"{records}[0]", "'id' is missing")


@pytest.mark.parametrize("records", REQUIRED)
def test_duplicate_ids_are_refused(write, content, records):
    content[records][0]["id"] = content[records][1]["id"]
    refused(write, content, "duplicate", records, content[records][1]["id"])


def test_unknown_image_and_category_ids_are_refused(write, content):
    content["annotations"][1]["image_id"] = 71
    refused(write, content, "annotation id 3", "image_id 71")
    content["annotations"][1] |= {"image_id": 70, "category_id": 5}
    refused(write, content, "annotation id 3", "category_id 5")
    refused(write, content, "annotation id 3", "category_id 5", training=False)


def test_a_category_that_the_train_split_lacks_is_refused(write, content):
    message = refused(write, content, "category_id 90", training=False, category_ids=(3, 4))
    assert "train split" in message


@pytest.mark.parametrize("size", [0, -4, 2**40])
def test_an_impossible_image_size_is_refused(write, content, size):
    content["images"][1]["height"] = size
    refused(write, content, "image id 9", size)


@pytest.mark.parametrize(
    "name", ["", "../a.png", "x/../../a.png", "/etc/passwd", "..\\a.png", "C:\\a.png", "a\0.png", 5]
)
def test_a_file_name_that_leaves_the_folder_or_is_none_is_refused(write, content, name):
    content["images"][1]["file_name"] = name
    refused(write, content, "image id 9", "file_name")


def test_dots_inside_a_name_are_no_way_out_of_the_folder(write, content):
    content["images"][1]["file_name"] = "a..b/..c.png"
    read_coco(*write(content))


@pytest.mark.parametrize(
    "box", [[1, 2, 3], [1, 2, 3, 4, 5], "1,2,3,4", [1, 2, "3", 4], [1, 2, None, 4], [1, True, 3, 4]]
)
def test_a_box_that_is_not_four_numbers_is_refused(write, content, box):
    content["annotations"][1]["bbox"] = box
    refused(write, content, "annotation id 3", "bbox")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 10**400])
@pytest.mark.parametrize("place", range(4))
def test_a_box_without_finite_numbers_is_refused(write, content, training, number, place):
    content["annotations"][1]["bbox"][place] = number
    refused(write, content, "annotation id 3", "bbox", training=training)


def test_a_box_of_any_finite_length_is_clamped(write, content):
    content["annotations"][1]["bbox"] = [-1e308, 2, 1.5e308, 1e308]
    assert_array_equal(read_coco(*write(content)).targets(0)[1], [[0, 2, 64, 48]])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("box", [[64, 0, 5, 5], [0, 48, 5, 5], [-5, 0, 5, 5], [0, -9, 5, 5], [900, 900, 5, 5]])
def test_a_box_wholly_outside_its_image_is_refused(write, content, training, box):
    content["annotations"][1]["bbox"] = box
    refused(write, content, "annotation id 3", "image id 70", "outside", "64 x 48", training=training)


@pytest.mark.parametrize("training", [True, False])
def test_a_negative_side_is_refused(write, content, training):
    content["annotations"][1]["bbox"] = [30, 30, -5, 5]
    refused(write, content, "annotation id 3", "negative", training=training)


# --- finding a split ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "folder"),
    [("annotations/instances_val.json", "images/val"), ("annotations/instances_val2017.json", "val2017")],
)
def test_both_layouts_are_found(tmp_path, file, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    (tmp_path / file).write_text("{}")
    assert find_split(tmp_path, "val") == (tmp_path / file, tmp_path / folder)
    with pytest.raises(DataError, match="no train split"):
        find_split(tmp_path, "train")


def test_a_folder_of_another_layout_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(DataError) as error:
        find_split(tmp_path, "train")
    for mention in (tmp_path, "instances_train.json", "train2017", "labels.json", "pictures/"):
        assert str(mention) in str(error.value)
    with pytest.raises(DataError, match="no such folder"):
        find_split(tmp_path / "nowhere", "train")


# --- real files --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (REAL / "coco_free").is_dir(), reason="needs ../shared/data/coco_free")
def test_coco_free_is_read_without_an_edit():
    train = read_coco(*find_split(REAL / "coco_free", "train"))
    val = read_coco(*find_split(REAL / "coco_free", "val"), training=False, category_ids=train.category_ids)
    assert (len(train), len(val)) == (13, 17)
    assert (len(train.labels), len(val.labels)) == (125, 111)
    assert train.dropped == {"crowd": 2, "zero_area": 0, "clamped": 0}
    assert train.num_classes == 80
    assert train.category_ids[-1] == 90
    assert train.category_names == val.category_names
    for index in (train, val):
        check_images(index, every=True)


@pytest.mark.skipif(not (REAL / "bccd").is_dir(), reason="needs ../shared/data/bccd")
def test_ids_that_start_at_zero_are_read():
    train = read_coco(*find_split(REAL / "bccd", "train"))
    assert (len(train), len(train.labels), train.category_ids) == (280, 3916, (0, 1, 2))
    check_images(train, every=False)
