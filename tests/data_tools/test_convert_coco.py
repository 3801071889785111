"""COCO files as exporters lay them out and write them."""

import gzip
import json
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from data_tools.convert.coco_layouts import split_of
from data_tools.convert.conversion import convert
from data_tools.convert.report import NothingLeft, Options
from data_tools.convert.segmentation import box_around
from data_tools.image_formats import image_suffixes
from dfine_lib.data.images import DataError
from tests.data_tools.small_sets import converted, picture, write

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"
BOX = (10, 20, 30, 40)


def box(identity, image=1, category=1, bbox=BOX, **more):
    return {"id": identity, "image_id": image, "category_id": category, "bbox": list(bbox), **more}


def coco(*names, boxes=None, categories=None):
    """A COCO file whose images are 200 x 100, with one box each."""
    return {
        "images": [{"id": i, "file_name": name, "width": 200, "height": 100} for i, name in enumerate(names, 1)],
        "annotations": [box(i, i) for i in range(1, len(names) + 1)] if boxes is None else boxes,
        "categories": categories or [{"id": 1, "name": "cat"}],
    }


def made(folder, layout):
    """Files by name: None is an image, all of them different; anything else is written."""
    for i, (name, content) in enumerate(layout.items(), 1):
        if content is None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (200, 100), (37 * i % 256, 0, 0)).save(folder / name)
        elif isinstance(content, bytes):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        else:
            write(folder / name, content)
    return folder


def run(source, out, **options):
    return convert(source, out, read="coco", options=Options(progress=False, **options))


# Layouts


@pytest.mark.parametrize(
    ("layout", "splits"),
    [
        ({"annotations/instances_default.json": coco("a.jpg"), "images/default/a.jpg": None}, {"train"}),
        ({"annotations/instances_Train.json": coco("a.jpg"), "images/Train/a.jpg": None,
          "annotations/instances_Validation.json": coco("a.jpg"), "images/Validation/a.jpg": None}, {"train", "val"}),
        ({"annotations/instances_Night 3.json": coco("a.jpg"), "images/Night 3/a.jpg": None,
          "annotations/instances_default.json": coco("a.jpg"), "images/default/a.jpg": None}, {"Night 3", "default"}),
        ({f"{split}/_annotations.coco.json": coco("a.jpg") for split in ("train", "valid", "test")}
         | {f"{split}/a.jpg": None for split in ("train", "valid", "test")}, {"train", "val", "test"}),
        ({"train.json": coco("a.jpg"), "valid.json": coco("b.jpg"), "a.jpg": None, "b.jpg": None}, {"train", "val"}),
        ({"annotations/train.json": coco("a.jpg"), "annotations/test.json": coco("a.jpg"), "images/train/a.jpg": None,
          "images/test/a.jpg": None}, {"train", "test"}),
        ({"annotations/instances_val2017.json": coco("a.jpg"), "val2017/a.jpg": None}, {"val"}),
        ({"annotations/person_keypoints_val2017.json": coco("a.jpg"), "val2017/a.jpg": None}, {"val"}),
        ({"my_train_annotations.json": coco("a.jpg"), "images/a.jpg": None}, {"train"}),
        ({"annotations.json": coco("batch_1/a.jpg", "batch_2/a.JPG"), "batch_1/a.jpg": None, "batch_2/a.JPG": None},
         {"train"}),
        ({"result.json": coco("images/3f-a.jpg", "images\\b c.jpg"), "images/3f-a.jpg": None, "images/b c.jpg": None},
         {"train"}),
        ({"labels.json": coco("a.jpg"), "data/a.jpg": None}, {"train"}),
        ({"train/labels.json": coco("a.jpg"), "train/data/a.jpg": None, "validation/labels.json": coco("a.jpg"),
          "validation/data/a.jpg": None}, {"train", "val"}),
        ({"zhiyuan_objv2_train.json": coco("images/v1/patch8/a.jpg", "images/v2/patch16/b.jpg"),
          "train/patch8/a.jpg": None, "patch16/b.jpg": None}, {"train"}),
    ],
)  # fmt: skip
def test_every_layout_of_exporters_is_read_whole(tmp_path, layout, splits):
    result = run(made(tmp_path / "set", layout), tmp_path / "out")
    images = [name for name, content in layout.items() if content is None]
    assert result.images.keys() == splits and sum(result.images.values()) == len(images)
    assert sum(result.boxes.values()) == len(images) and not result.changed
    assert all(not counts["left_out"] for counts in result.found.values())


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017.json", "train"), ("instances_2017_val.json", "val"), ("instances_default.json", None),
        ("annotations.json", None), ("_annotations.coco.json", None), ("valid/_annotations.coco.json", "val"),
        ("new_zhiyuan_objv2_val_resized.json", "val"), ("lvis_v1_train.json.gz", "train"),
        ("instances_train_half.json", "train"), ("instances_Night 3.json", "Night 3"), ("train_val.json", "train"),
    ],
)  # fmt: skip
def test_the_split_of_a_file_is_what_its_name_and_folders_say(tmp_path, name, split):
    assert split_of(tmp_path / name, tmp_path) == split


def test_files_of_other_tasks_are_passed_over_by_name_and_images_without_a_file_are_said(tmp_path):
    captions = {"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "x"}]}
    layout = {
        "annotations/instances_train2017.json": coco("a.jpg"), "annotations/instances_val2017.json": coco("b.jpg"),
        "annotations/captions_val2017.json": captions, "annotations/person_keypoints_val2017.json": coco("b.jpg"),
        "annotations/image_info_test2017.json": {"images": [], "categories": []}, "data.json": {"train": {}, "val": {}},
        "conversion_report.json": {"ledger": {}, "listed": []}, "package.json": {"name": "x"},
        "train2017/a.jpg": None, "val2017/b.jpg": None, "test2017/c.jpg": None,
    }  # fmt: skip
    result = run(made(tmp_path / "set", layout), tmp_path / "out")
    assert result.images == {"train": 1, "val": 1}
    assert result.left_out("annotation files") == {
        "captions, no boxes": 1, "key points or panoptic, instances taken": 1,
        "a list of images without annotations": 1, "a file that names the splits of a data set": 1,
        "the report of a conversion": 1, "no list 'images' (keys: 'name'), so no COCO file": 1,
    }  # fmt: skip
    assert result.found["annotation files"]["found"] == 8 and result.found["annotation files"]["taken"] == 2
    assert any("no annotation file for the images in" in remark and "test2017" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"annotations/instances_train2014.json": coco("a.jpg"), "annotations/instances_train2017.json": coco("b.jpg")},
         "2 annotation files of split train: .*instances_train2014.json and .*instances_train2017.json"),
        ({"annotations.json": coco("a.jpg"), "annotations_unofficial.json": coco("b.jpg")},
         "2 annotation files that name no split"),
        ({"task_1/annotations/instances_default.json": coco("a.jpg"),
          "task_2/annotations/instances_default.json": coco("a.jpg")}, "that name no split: .*task_1.*task_2"),
        ({"val.json": coco("a.jpg"), "annotations.json": coco("b.jpg")}, "annotations.json names no split"),
    ],
)  # fmt: skip
def test_two_files_of_one_split_are_refused_and_one_named_instead_is_taken(tmp_path, layout, message):
    source = made(tmp_path / "set", layout)
    with pytest.raises(DataError, match=message) as caught:
        run(source, tmp_path / "out")
    assert "Name the one to convert in place of the folder" in str(caught.value)
    assert run(source / next(iter(layout)), tmp_path / "out").images == {"train": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": "5", "shapes": [{"label": "x"}], "imagePath": "a.jpg"}, "LabelMe.* --from labelme"),
        ([{"image": "a.jpg", "annotations": []}], "CreateML.* --from createml"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "detections, not annotations"),
        ([{"id": 1, "annotations": [{"result": []}], "data": {}}], "Label Studio.*Export it there as COCO"),
        ({"info": {}, "categories": {"label": {}}, "items": []}, "Datumaro.*Export it as COCO"),
        ({"description": "", "size": {"height": 1, "width": 1}, "objects": []}, "Supervisely"),
        ({"a.jpg12": {"filename": "a.jpg", "size": 12, "regions": []}}, "VGG Image Annotator"),
        ({"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "x"}]}, "captions, no boxes"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}], "categories": []}, "a list of images without annotations"),
        ({"train": {"annotations": "a", "images": "b"}}, "Give the annotation file that it names"),
        ([3], "a list, not the object"),
        ({"foo": 1}, r"no list 'images' \(keys: 'foo'\)"),
    ],
)
def test_a_file_of_another_tool_is_refused_with_its_name_and_the_way_out(tmp_path, content, message):
    source = made(tmp_path / "set", {"x.json": content, "a.jpg": None})
    for path in (source, source / "x.json"):
        with pytest.raises(NothingLeft, match=message):
            run(path, tmp_path / "out")


def test_a_single_file_whose_name_says_another_split_is_said(tmp_path):
    source = made(tmp_path / "set", {"instances_val2017.json": coco("a.jpg")}) / "instances_val2017.json"
    result = run(source, tmp_path / "1")
    assert result.images == {"train": 1} and any("is taken as split train" in remark for remark in result.remarks)
    assert "taken as" not in " ".join(run(source, tmp_path / "2", split="val").remarks)


# How files are stored


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("train.json.gz", lambda text: gzip.compress(text.encode())),
        ("train.json", lambda text: gzip.compress(text.encode())),
        ("train.json", lambda text: text.encode("utf-16")),
        ("train.json", lambda text: text.encode("utf-16-le")),
        ("train.json", lambda text: text.encode("utf-16-be")),
        ("train.json", lambda text: text.encode("utf-8-sig")),
    ],
)
def test_gzip_utf_16_and_byte_order_marks_are_read(tmp_path, name, stored):
    text = json.dumps(coco("ä.jpg"), ensure_ascii=False)
    _, found, _ = converted(made(tmp_path / "set", {name: stored(text)}), tmp_path / "out", "coco")
    assert found == {"ä.jpg": [("cat", *BOX)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "Git LFS pointer in place of the file. Run `git lfs pull`"),
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        (gzip.compress(json.dumps(coco("a.jpg")).encode())[:-20], "damaged gzip"),
        (b"PK\x03\x04abc", "a ZIP archive. Unpack it"),
        (b"\xff\xfe\x00\xd8", "neither UTF-8 nor UTF-16"),
    ],
)
def test_what_stands_in_the_place_of_an_annotation_file_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        run(made(tmp_path / "set", {"train.json": content}), tmp_path / "out")


@pytest.mark.parametrize(
    ("read", "files"),
    [
        ("voc", {"a.xml": POINTER}), ("cvat", {"a.xml": POINTER}), ("csv", {"a.csv": POINTER}),
        ("yolo", {"classes.txt": "x", "a.jpg": None, "a.txt": POINTER}), ("labelme", {"a.json": POINTER}),
        ("createml", {"a.json": POINTER}),
    ],
)  # fmt: skip
def test_every_reader_knows_a_git_lfs_pointer(tmp_path, read, files):
    with pytest.raises(DataError, match="git lfs pull"):
        converted(made(tmp_path / "set", files), tmp_path / "out", read)


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.convert.text_files._MOST_BYTES", 1 << 20)
    bomb = gzip.compress(b" " * (8 << 20) + json.dumps(coco("a.jpg")).encode())
    with pytest.raises(DataError, match="once decompressed"):
        run(made(tmp_path / "set", {"train.json.gz": bomb}), tmp_path / "out")


def test_an_image_that_is_a_pointer_or_empty_is_left_out_by_name(tmp_path):
    layout = {"train.json": coco("a.jpg", "b.jpg", "c.jpg"), "a.jpg": None, "b.jpg": POINTER, "c.jpg": ""}
    result = run(made(tmp_path / "set", layout), tmp_path / "out")
    reasons = {"image unreadable (Git LFS pointer, run git lfs pull)": 1, "image unreadable (empty file)": 1}
    assert result.left_out("images") == result.left_out("records") == reasons
    assert result.left_out("boxes") == {"image left out": 2}


def test_an_image_of_a_format_that_is_not_opened_here_is_counted_once(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.image_formats.register_heif", lambda: False)
    image_suffixes.cache_clear()
    try:
        layout = {"train.json": coco("a.heic", "b.jpg"), "a.heic": "x", "b.jpg": None}
        result = run(made(tmp_path / "set", layout), tmp_path / "out")
    finally:
        image_suffixes.cache_clear()
    assert result.found["images"]["found"] == 2
    reason = {"HEIC needs the package pillow-heif (pip install pillow-heif)": 1}
    assert result.left_out("images") == result.left_out("records") == reason


def test_where_nothing_is_left_the_cause_is_named_and_not_what_follows_from_it(tmp_path):
    with pytest.raises(NothingLeft, match="Most were left out for: image missing"):
        run(made(tmp_path / "set", {"train.json": coco("a.jpg"), "b.jpg": None}), tmp_path / "out")


# Categories


def rooted(*boxes, names=("cat", "cat")):
    listed = [{"id": i, "name": name, "supercategory": "none"} for i, name in enumerate(names)]
    return coco("a.jpg", boxes=list(boxes), categories=listed)


def test_roboflows_root_category_that_is_named_as_its_only_class_is_dropped_and_said(tmp_path):
    source = made(tmp_path / "set", {"train.json": rooted(box(1)), "val.json": rooted(box(1)) | {"info": {}}})
    result, found, data = converted(source, tmp_path / "out", "coco")
    assert data["categories"] == [{"id": 1, "name": "cat", "supercategory": "none"}]
    assert found == {"a.jpg": [("cat", *BOX)]}
    assert len([remark for remark in result.remarks if "root category of Roboflow" in remark]) == 1


def test_two_categories_of_one_name_that_both_have_boxes_are_refused_with_both_ids(tmp_path):
    for i, boxes in enumerate(([box(1, category=0), box(2)], [box(1, category=1)])):
        listed = [{"id": 0 if i == 0 else 2, "name": "cat"}, {"id": 1, "name": "cat"}]
        source = write(tmp_path / f"{i}.json", coco("a.jpg", boxes=boxes, categories=listed))
        with pytest.raises(DataError, match=r"id 1 is named 'cat', and so is id [02]\. Rename one of them"):
            run(source, tmp_path / "out")


def test_splits_that_number_their_classes_otherwise_are_refused_with_both_files(tmp_path):
    other = coco("b.jpg", boxes=[box(1, category=2)], categories=[{"id": 2, "name": "cat"}])
    with pytest.raises(DataError, match=r"val\.json: category id 2 is named 'cat', and so is id 1 in .*train\.json"):
        run(made(tmp_path / "1", {"train.json": coco("a.jpg"), "val.json": other}), tmp_path / "out")
    other = coco("b.jpg", categories=[{"id": 1, "name": "dog"}])
    with pytest.raises(DataError, match=r"val\.json: category id 1 is named 'dog', and in .*train\.json 'cat'"):
        run(made(tmp_path / "2", {"train.json": coco("a.jpg"), "val.json": other}), tmp_path / "out")


# Boxes


def test_boxes_are_made_from_outlines_where_there_is_no_bbox(tmp_path):
    outlines = [
        [[10, 20, 40, 20, 40, 60], [50, 5, 60, 5, 60, 10]], [1, 2, 3, 2, 3, 9], [[[1, 2], [3, 2], [3, 9]]],
        {"size": [100, 200], "counts": [1005, 10, 90, 10, 18885]},
    ]  # fmt: skip
    boxes = [{"id": i, "image_id": 1, "category_id": 1, "segmentation": found} for i, found in enumerate(outlines, 1)]
    source = write(tmp_path / "set" / "a.json", coco("a.jpg", boxes=boxes))
    result, found, _ = converted(source, tmp_path / "out", "coco")
    assert [row[1:] for row in found["a.jpg"]] == [(10, 5, 50, 55), (1, 2, 2, 7), (1, 2, 2, 7), (10, 5, 2, 10)]
    assert result.changed == {"box made from the outline, there was no bbox": 4}


@pytest.mark.parametrize(
    "segmentation",
    ["x", [[1, 2, 3]], [["a", "b"]], [[None, 1]], {"size": [3], "counts": []}, {"size": [2, 2], "counts": [9]},
     {"size": [2, 2], "counts": "~~~"}],
)  # fmt: skip
def test_an_outline_that_is_none_names_its_annotation(tmp_path, segmentation):
    rows = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation}]
    with pytest.raises(DataError, match=r"a\.json, annotations\[0\]"):
        run(write(tmp_path / "set" / "a.json", coco("a.jpg", boxes=rows)), tmp_path / "out")


def test_boxes_of_masks_are_those_of_pycocotools():
    masks = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    draw = np.random.default_rng(0)
    for share in (0.02, 0.3, 1) * 20:
        mask = np.asfortranarray((draw.random(draw.integers(1, 40, 2)) < share).astype(np.uint8))
        coded = masks.encode(mask)
        runs = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=2, append=2)))
        plain = [0] * int(mask[0, 0]) + runs.tolist()
        for counts in (coded["counts"].decode(), plain):
            found = box_around({"size": list(mask.shape), "counts": counts}, "x")
            assert (found or [0, 0, 0, 0]) == masks.toBbox(coded).tolist()


def test_a_panoptic_file_gives_the_boxes_of_its_things(tmp_path):
    segments = [{"id": 3, "category_id": 1, "area": 50, "bbox": [1, 2, 30, 40], "iscrowd": 0},
                {"id": 4, "category_id": 2, "area": 50, "bbox": [0, 0, 100, 40], "iscrowd": 0}]  # fmt: skip
    data = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
    }
    source = made(tmp_path / "set", {"panoptic_train2017.json": data})
    result, found, written = converted(source, tmp_path / "out", "coco")
    assert found == {"a.jpg": [("cat", 1, 2, 30, 40)]} and written["categories"] == [{"id": 1, "name": "cat"}]
    assert result.left_out("boxes") == {"stuff of a panoptic file, no object": 1}


def test_numbers_and_ids_as_text_are_those_numbers_and_repeated_ids_are_counted_anew(tmp_path):
    data = {
        "images": [{"id": "7", "file_name": "a.jpg", "width": "200", "height": "100"}],
        "categories": [{"id": "3", "name": "cat"}],
        "annotations": [
            {"id": 5, "image_id": 7, "category_id": "3", "bbox": ["1", "2.5", "3", "4"], "area": "11", "iscrowd": "0"},
            {"id": 5, "image_id": "7", "category_id": 3, "bbox": [5, 5, 3, 4]},
        ],
    }
    result, found, data = converted(write(tmp_path / "set" / "a.json", data), tmp_path / "out", "coco")
    assert found == {"a.jpg": [("cat", 1, 2.5, 3, 4), ("cat", 5, 5, 3, 4)]} and data["images"][0]["id"] == 7
    assert [row["id"] for row in data["annotations"]] == [1, 2] and data["annotations"][0]["area"] == 11
    assert "train: boxes renumbered, their ids were not whole numbers or occurred twice" in result.remarks


def test_ids_as_words_missing_areas_and_boxes_of_nobody(tmp_path):
    data = {
        "images": [{"id": "x", "file_name": "a.jpg", "width": 20, "height": 10}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": "b1", "image_id": "x", "category_id": 3, "bbox": [1, 1, 5, 5]},
            {"id": "b1", "image_id": "x", "category_id": 4, "bbox": [1, 1, 5, 5]},
            {"image_id": "y", "category_id": 3, "bbox": [1, 1, 5, 5]},
            {"image_id": "x", "category_id": 3, "bbox": [1, 1, 0, 5]},
            {"image_id": "x", "category_id": 3, "bbox": [9, 1, -2, 5]},
            {"image_id": "x", "category_id": 3, "segmentation": []},
            {"image_id": "x", "category_id": 3, "segmentation": [[]]},
        ],
    }
    result, found, data = converted(write(tmp_path / "set" / "a.json", data), tmp_path / "out", "coco")
    assert found == {"a.jpg": [("cat", 1, 1, 5, 5)]} and data["annotations"][0]["area"] == 25
    assert data["images"][0]["id"] == 1 and data["annotations"][0]["image_id"] == 1
    assert result.left_out("boxes") == {
        "its image is not listed": 1, "its category is not listed": 1, "no area": 1, "negative width or height": 1,
        "no bbox": 2,
    }  # fmt: skip


@pytest.mark.parametrize("write_as", ["coco", "voc", "yolo"])
def test_ignored_boxes_stay_ignored_and_are_no_crowds(tmp_path, write_as):
    rows = [box(1, ignore=1), box(2, difficult=1), box(3, iscrowd=1), box(4)]
    source = made(tmp_path / "set", {"train.json": coco("a.jpg", boxes=rows), "a.jpg": None})
    result = convert(source, tmp_path / "there", read="coco", write=write_as, options=Options(progress=False))
    if write_as == "yolo":
        assert result.left_out("boxes") == {
            "crowd box, which YOLO has no word for": 1, "box to ignore, which YOLO has no word for": 1
        }  # fmt: skip
        return
    _, _, data = converted(tmp_path / "there", tmp_path / "back", write_as)
    flags = [(row.get("ignore", 0), row.get("difficult", 0), row["iscrowd"]) for row in data["annotations"]]
    first = (1, 0, 0) if write_as == "coco" else (0, 1, 0)  # VOC has one word for both
    assert flags == [first, (0, 1, 0), (0, 0, 1), (0, 0, 0)]


def test_boxes_written_as_corners_are_refused_and_the_way_out_mends_them(tmp_path):
    from dfine_tools.cli import main

    rows = [box(i, bbox=(110 + i, 50 + i, 190, 95)) for i in range(1, 11)]
    source = made(tmp_path / "set", {"train.json": coco("a.jpg", boxes=rows), "a.jpg": None})
    with pytest.raises(DataError, match=r"train\.json: .*\[left, top, right, bottom\].*`dfine doctor data\.json --fix"):
        run(source, tmp_path / "out")
    named = {"annotations": "set/train.json", "images": "set"}
    write(tmp_path / "data.json", {"train": named, "val": named})
    main(["doctor", str(tmp_path / "data.json"), "--fix", str(tmp_path / "fixed")])
    _, found, _ = converted(tmp_path / "fixed" / "annotations" / "instances_train.json", tmp_path / "out", "coco",
                            follow_links=True)  # fmt: skip
    assert found["a.jpg"][0] == ("cat", 111, 51, 79, 44)


def test_boxes_that_merely_stick_out_are_not_taken_for_corners(tmp_path):
    rows = [box(i, bbox=(110, 50, 100 + i, 70)) for i in range(1, 11)] + [box(11, bbox=(60, 60, 50, 30))]
    assert run(write(tmp_path / "set" / "a.json", coco("a.jpg", boxes=rows)), tmp_path / "out").boxes == {"train": 11}


# Which image


@pytest.mark.parametrize("order", [("cam1/0.jpg", "cam2/0.jpg"), ("cam2/0.jpg", "cam1/0.jpg")])
@pytest.mark.parametrize("home", ["", "images/", "images/train/"])
def test_equal_names_in_two_folders_are_two_images_in_any_order_of_records(tmp_path, order, home):
    rows = [box(1, 1, bbox=(1, 1, 5, 5)), box(2, 2, bbox=(2, 2, 6, 6))]
    layout = {"train.json": coco(*order, boxes=rows), home + "cam1/0.jpg": None, home + "cam2/0.jpg": None}
    source = made(tmp_path / "set", layout)
    _, found, _ = converted(source, tmp_path / "out", "coco")
    assert found == {order[0]: [("cat", 1, 1, 5, 5)], order[1]: [("cat", 2, 2, 6, 6)]}
    for name in order:
        image = tmp_path / "out" / "images" / "train" / name
        assert image.read_bytes() == (source / (home + name)).read_bytes()


@pytest.mark.parametrize("order", [("cam1/0.jpg", "cam2/0.jpg"), ("cam2/0.jpg", "cam1/0.jpg")])
def test_an_image_is_not_given_to_the_record_of_another_folder(tmp_path, order):
    source = made(tmp_path / "set", {"train.json": coco(*order), "cam1/0.jpg": None})
    result, found, _ = converted(source, tmp_path / "out", "coco")
    assert list(found) == ["cam1/0.jpg"] and result.left_out("records") == {"image missing": 1}


@pytest.mark.parametrize(
    "prefix", ["/home/me/set/", "C:\\Users\\me\\", "../../label-studio/media/upload/1/", "/data/local-files/?d=images/",
               "https://host/bucket/", "file:///data/"])  # fmt: skip
def test_a_path_of_another_machine_counts_by_its_name_in_the_folder_of_the_images(tmp_path, prefix):
    source = made(tmp_path / "set", {"r.json": coco(prefix + "a.jpg", prefix + "b%20c.jpg"), "i/a.jpg": None,
                                     "i/b c.jpg": None})  # fmt: skip
    _, found, _ = converted(source / "r.json", tmp_path / "out", "coco", images=source / "i")
    assert list(found) == ["a.jpg", "b c.jpg"]


def test_accents_composed_and_decomposed_are_one_name_and_it_is_said(tmp_path):
    names = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    for i, (said, stored) in enumerate((names, names[::-1])):
        source = made(tmp_path / f"{i}", {"train.json": coco(said), stored: None})
        result, found, _ = converted(source, tmp_path / f"{i}_out", "coco")
        assert list(found) == [stored] and sum(result.changed.values()) == 1


def test_an_image_of_two_splits_is_taken_once(tmp_path):
    layout = {"train/_annotations.coco.json": coco("a.jpg", "d.jpg"), "valid/_annotations.coco.json": coco("b.jpg"),
              "train/a.jpg": None, "train/d.jpg": None}  # fmt: skip

    source = made(tmp_path / "set", layout)
    shutil.copy(source / "train" / "a.jpg", source / "valid" / "b.jpg")
    result = run(source, tmp_path / "out")
    assert result.images == {"train": 1, "val": 1} and result.left_out("images") == {"the same image is in val": 1}


def test_an_image_of_lvis_is_named_by_its_address(tmp_path):
    data = coco("x")
    data["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/000000000139.jpg"
    del data["images"][0]["file_name"]
    source = made(tmp_path / "set", {"lvis_v1_val.json": data, "val2017/000000000139.jpg": None})
    _, found, _ = converted(source, tmp_path / "out", "coco", split="val")
    assert list(found) == ["val2017/000000000139.jpg"]


# Objects365


def test_objects365_finds_images_in_their_patches_and_counts_the_absent(tmp_path):
    picture(tmp_path / "set" / "train" / "patch8" / "objects365_v1_1.jpg")
    picture(tmp_path / "set" / "train" / "images" / "v2" / "patch9" / "objects365_v2_2.jpg")
    names = (
        "images/v1/patch8/objects365_v1_1.jpg",
        "images/v2/patch9/objects365_v2_2.jpg",
        "images/v2/patch16/gone.jpg",
    )
    images = [{"id": 420917 + i, "file_name": name, "width": 200, "height": 100} for i, name in enumerate(names)]
    boxes = [{"id": 1 + i, "image_id": 420917 + i, "category_id": 365, "bbox": [5, 5, 20.5, 30], "iscrowd": i == 1,
              "area": 615} for i in range(3)]  # fmt: skip
    categories = [{"id": 365, "name": "Table Tennis "}, {"id": 1, "name": "Person"}]
    data = {"annotations": boxes, "images": images, "categories": categories, "licenses": []}  # boxes come first
    write(tmp_path / "set" / "zhiyuan_objv2_train.json", data)
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "objects365")
    assert result.left_out("records") == {"image missing": 1} and result.left_out("boxes") == {"image left out": 1}
    assert list(found) == ["patch8/objects365_v1_1.jpg", names[1]]
    assert [image["id"] for image in data["images"]] == [420917, 420918]
    assert data["categories"] == [{"id": 1, "name": "Person"}, {"id": 365, "name": "Table Tennis "}]
    assert [(row["id"], row["iscrowd"]) for row in data["annotations"]] == [(1, 0), (2, 1)]
    assert (tmp_path / "out" / "images" / "train" / names[1]).is_file()


def test_the_split_of_a_file_of_objects365_is_that_of_its_name(tmp_path):
    source = made(tmp_path / "set", {"zhiyuan_objv2_val.json": coco("a.jpg")}) / "zhiyuan_objv2_val.json"
    assert convert(source, tmp_path / "out", read="objects365", options=Options(progress=False)).images == {"val": 1}


# The ledger


def test_everything_of_a_source_ends_in_one_line_of_the_ledger(tmp_path):
    listed = ["good.jpg", "missing.jpg", "damaged.jpg", "empty.jpg", "other_size.jpg", "halved.jpg"]
    rows = [box(10 * i, i) for i in range(1, 7)] + [
        box(1, bbox=(0, 0, 0, 5)), box(2, bbox=(0, 0, -3, 5)), box(3, bbox=(900, 0, 5, 5)), box(4, category=7),
        box(5, image=77), {"id": 6, "image_id": 1, "category_id": 1}, box(7, bbox=(190, 90, 30, 30)),
        {"id": 8, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]},
    ]  # fmt: skip
    layout = {
        "annotations/instances_train.json": coco(*listed, boxes=rows), "images/train/good.jpg": None,
        "images/train/damaged.jpg": "x", "images/train/empty.jpg": "", "images/train/of_nobody.jpg": None,
        "annotations/captions_train.json": {"images": [], "annotations": []},
    }  # fmt: skip
    source = made(tmp_path / "set", layout)
    picture(source / "images/train/other_size.jpg", 120, 100)
    picture(source / "images/train/halved.jpg", 100, 50)
    result, found, data = converted(source, tmp_path / "out", "coco")
    assert result.left_out("annotation files") == {"captions, no boxes": 1}
    assert result.left_out("images") == {
        "image unreadable (UnidentifiedImageError)": 1, "image unreadable (empty file)": 1,
        "image of another size than its annotation says": 1, "no record names it": 1,
    }  # fmt: skip
    assert result.left_out("records") == {
        "image missing": 1, "image unreadable (UnidentifiedImageError)": 1, "image unreadable (empty file)": 1,
        "image of another size than its annotation says": 1,
    }  # fmt: skip
    assert result.left_out("boxes") == {
        "image left out": 4, "no area": 1, "negative width or height": 1, "wholly outside of its image": 1,
        "its category is not listed": 1, "its image is not listed": 1, "no bbox": 1,
    }  # fmt: skip
    there = {"annotation files": 2, "images": 6, "records": len(listed), "boxes": len(rows)}
    for kind, counts in result.found.items():
        assert counts["found"] == there[kind] == counts["taken"] + sum(counts["left_out"].values())
    assert len(data["images"]) == result.found["images"]["taken"] == result.found["records"]["taken"] == 2
    assert len(data["annotations"]) == result.found["boxes"]["taken"] == 4
    assert found["halved.jpg"] == [("cat", 5, 10, 15, 20)]
    assert sum(result.changed.values()) == 3  # cut at the edge, made from the outline, scaled
    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    lines = [entry for entry in report["listed"] if entry["kind"] != "changed"]
    assert len(lines) == sum(sum(counts["left_out"].values()) for counts in result.found.values())
