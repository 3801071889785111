"""COCO folders divided, shrunk, filtered and merged."""

import json
import os
import resource
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from data_tools.stratify import divide
from data_tools.subset import filter_data, merge_data, split_data, subset_data
from dfine_lib.data import check_images, find_split, read_coco
from dfine_lib.data.images import DataError
from dfine_tools.cli import main

QUIET = {"progress": False}


def data_set(folder, rows, names=("a", "b", "c"), splits=("train",)):
    """`rows`: file name → classes of its boxes; record keys beyond COCO's must survive."""
    for k, split in enumerate(splits):
        images, boxes = [], []
        for i, (name, labels) in enumerate(rows.items()):
            path = folder / "images" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (40, 30), (i + 100 * k) % 256).save(path)
            images.append({"id": 5 * i, "file_name": name, "width": 40, "height": 30, "video": i // 4, "note": f"n{i}"})
            for label in labels:
                boxes.append({"id": len(boxes) + 7, "image_id": 5 * i, "category_id": 10 * label, "iscrowd": 0,
                              "bbox": [1, 2, 4, 2 + label], "area": 8,
                              "segmentation": [[1, 2, 3, 4, 5, 6]]})  # fmt: skip
        categories = [{"id": 10 * i, "name": name} for i, name in enumerate(names)]
        content = {"info": {"by": "me"}, "images": images, "annotations": boxes, "categories": categories}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def content(folder, split):
    return json.loads((Path(folder) / "annotations" / f"instances_{split}.json").read_text())


def many(count=40):
    return {f"cam{i // 10}_{i:03d}.png": [0] * (1 + i % 3) + [1] * (i % 2) + [2] * (i % 8 == 0) for i in range(count)}


# Dividing


def test_classes_divide_by_hand():
    # four pictures of a rare class, eight of a common one: half of each to each part
    labels = [[0]] * 4 + [[1, 1]] * 8
    parts = divide(labels, [0.5, 0.5], seed=3)
    assert Counter(parts[:4].tolist()) == {0: 2, 1: 2} and Counter(parts[4:].tolist()) == {0: 4, 1: 4}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=60), st.integers(0, 99),
    st.sampled_from([[0.8, 0.2], [0.5, 0.3, 0.2], [1.0, 0.0], [0.9, 0.1]]),
)  # fmt: skip
def test_parts_have_exactly_the_size_asked_for_and_follow_the_seed(labels, seed, shares):
    parts = divide(labels, shares, seed=seed)
    sizes = np.bincount(parts, minlength=len(shares))
    assert sizes.sum() == len(labels) and (np.abs(sizes - np.array(shares) * len(labels)) < 1).all()
    assert_array_equal(parts, divide(labels, shares, seed=seed))


def test_stratified_parts_are_nearer_to_the_shares_than_chance():
    draw = np.random.default_rng(0)
    labels = [draw.choice(20, size=draw.integers(0, 6), p=(weights := 0.7 ** np.arange(20)) / weights.sum()).tolist()
              for _ in range(400)]  # fmt: skip
    totals = np.bincount(np.concatenate(labels).astype(int), minlength=20)

    def off(parts):
        own = np.bincount(np.concatenate([row for row, part in zip(labels, parts) if part]).astype(int), minlength=20)
        return np.abs(own - 0.2 * totals).sum()

    chance = np.mean([off(draw.permutation(400) < 80) for _ in range(20)])
    assert off(divide(labels, [0.8, 0.2], seed=0)) < 0.35 * chance


def test_groups_stay_together():
    groups = [i // 5 for i in range(100)]
    parts = divide([[i % 3] for i in range(100)], [0.8, 0.2], seed=1, groups=groups)
    assert all(len(set(parts[5 * g : 5 * g + 5].tolist())) == 1 for g in range(20))
    assert np.bincount(parts).tolist() == [80, 20]


def test_shares_that_make_no_whole_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        divide([[0]], [0.5, 0.2], seed=0)


# The commands


def test_split_makes_a_folder_that_training_reads_and_records_keep_their_keys(tmp_path):
    source = data_set(tmp_path / "set", many())
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    split_data(source, tmp_path / "out", val=0.2, test=0.1, seed=4, **QUIET)
    parts = {name: content(tmp_path / "out", name) for name in ("train", "val", "test")}
    assert [len(part["images"]) for part in parts.values()] == [28, 8, 4]
    whole = content(source, "train")
    for key in ("images", "annotations"):
        together = sorted((row for part in parts.values() for row in part[key]), key=lambda row: row["id"])
        assert together == whole[key]
    assert all(part["categories"] == whole["categories"] and part["info"] == {"by": "me"} for part in parts.values())
    for split in ("train", "val"):
        check_images(read_coco(*find_split(tmp_path / "out", split)), every=True)
    assert before == {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    rare = [sum(row["category_id"] == 20 for row in part["annotations"]) for part in parts.values()]
    assert sum(rare) == 5 and rare[0] in (3, 4) and rare[1] >= 1
    report = json.loads((tmp_path / "out" / "subset_report.json").read_text())
    assert report["splits"]["val"]["images"] == 8 and report["seed"] == 4


@pytest.mark.parametrize("how", [{"group_key": "video"}, {"group_pattern": r"^(cam\d)_"}])
def test_split_keeps_groups_together(tmp_path, how):
    split_data(data_set(tmp_path / "set", many()), tmp_path / "out", val=0.25, **how, **QUIET)

    def groups(split):
        images = content(tmp_path / "out", split)["images"]
        return {image["video"] if "group_key" in how else image["file_name"][:4] for image in images}

    assert groups("train") and groups("val") and not groups("train") & groups("val")


def test_subset_makes_the_train_split_smaller_and_leaves_val(tmp_path):
    source = data_set(tmp_path / "set", many(), splits=("train", "val"))
    subset_data(source, tmp_path / "tenth", fraction=0.1, **QUIET)
    assert len(content(tmp_path / "tenth", "train")["images"]) == 4
    assert content(tmp_path / "tenth", "val") == content(source, "val")
    subset_data(source, tmp_path / "seven", count=7, of=("train", "val"), seed=1, **QUIET)
    assert [len(content(tmp_path / "seven", split)["images"]) for split in ("train", "val")] == [7, 7]
    assert len(list((tmp_path / "seven" / "images" / "train").iterdir())) == 7


def test_a_test_split_is_kept(tmp_path):
    folder = data_set(tmp_path / "set", many(8), splits=("train", "val", "test"))
    subset_data(folder, tmp_path / "half", count=4, **QUIET)
    filter_data(folder, tmp_path / "a", categories=["a"], **QUIET)
    merge_data([folder, folder], tmp_path / "both", **QUIET)
    counts = {name: [len(content(tmp_path / name, split)["images"]) for split in ("train", "val", "test")]
              for name in ("half", "a", "both")}  # fmt: skip
    assert counts == {"half": [4, 8, 8], "a": [8, 8, 8], "both": [16, 16, 16]}
    assert len(list((tmp_path / "half" / "images" / "test").iterdir())) == 8


def test_annotations_alone_need_no_pictures(tmp_path):
    folder = data_set(tmp_path / "set", many(8))
    for path in (folder / "images" / "train").iterdir():
        path.unlink()
    subset_data(folder, tmp_path / "half", count=4, image_files="none", **QUIET)
    assert len(content(tmp_path / "half", "train")["images"]) == 4
    with pytest.raises(DataError, match="--image-files none"):
        subset_data(folder, tmp_path / "other", count=4, **QUIET)


def test_filter_by_class_size_and_number_of_boxes(tmp_path):
    rows = {"0.png": [0, 1, 2], "1.png": [0], "2.png": [2, 2], "3.png": []}  # class k has boxes 4 x (2 + k)
    source = data_set(tmp_path / "set", rows)
    filter_data(source, tmp_path / "1", categories=["c"], **QUIET)
    found = content(tmp_path / "1", "train")
    assert [c["id"] for c in found["categories"]] == [20] and len(found["images"]) == 4
    assert [box["image_id"] for box in found["annotations"]] == [0, 10, 10]
    filter_data(source, tmp_path / "2", min_side=3, min_boxes=2, **QUIET)
    found = content(tmp_path / "2", "train")
    assert [image["file_name"] for image in found["images"]] == ["0.png", "2.png"]
    assert [box["category_id"] for box in found["annotations"]] == [10, 20, 20, 20]
    with pytest.raises(DataError, match="no class 'dog'; there are a, b, c"):
        filter_data(source, tmp_path / "3", categories=["dog"], **QUIET)
    with pytest.raises(DataError, match="no image is left of train"):
        filter_data(source, tmp_path / "3", min_boxes=9, **QUIET)


def test_merge_meets_by_name_of_the_class_and_not_by_name_of_the_file(tmp_path):
    one = data_set(tmp_path / "one", {"x.png": [0, 1]}, names=("cat", "dog"), splits=("train", "val"))
    two = data_set(tmp_path / "two", {"x.png": [0], "y.png": [1]}, names=("dog", "cow"))
    merge_data([one, two], tmp_path / "out", **QUIET)
    found = content(tmp_path / "out", "train")
    names = {category["id"]: category["name"] for category in found["categories"]}
    assert names == {1: "cat", 2: "dog", 3: "cow"}
    files = {image["id"]: image["file_name"] for image in found["images"]}
    assert files == {1: "1/x.png", 2: "2/x.png", 3: "2/y.png"}
    assert [(files[box["image_id"]], names[box["category_id"]]) for box in found["annotations"]] == [
        ("1/x.png", "cat"), ("1/x.png", "dog"), ("2/x.png", "dog"), ("2/y.png", "cow")
    ]  # fmt: skip
    assert len(content(tmp_path / "out", "val")["images"]) == 1
    for split in ("train", "val"):
        check_images(read_coco(*find_split(tmp_path / "out", split)), every=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, o: split_data(s, o, val=1.2, **QUIET), "shares of val"),
        (lambda s, o: split_data(s, o, val=0.01, **QUIET), "nothing left for val"),
        (lambda s, o: split_data(s, o, val=0.2, group_key="nothing", **QUIET), "image id 0 has no 'nothing'"),
        (lambda s, o: split_data(s, o, val=0.2, group_pattern="(", **QUIET), "no regular expression"),
        (lambda s, o: split_data(s, o, val=0.2, group_pattern="dog", **QUIET), "image id 0: 'dog' is not in"),
        (lambda s, o: subset_data(s, o, **QUIET), "either a fraction or a count"),
        (lambda s, o: subset_data(s, o, count=99, **QUIET), "cannot keep 99 of 4"),
        (lambda s, o: subset_data(s, o, count=1, of=["val"], **QUIET), "no val split"),
        (lambda s, o: merge_data([s], o, **QUIET), "two data folders"),
        (lambda s, o: subset_data(s, s / "inside", count=1, **QUIET), "lies inside"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_nothing(tmp_path, call, message):
    source = data_set(tmp_path / "set", many(4))
    with pytest.raises(DataError, match=message):
        call(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(file_name="../../etc/passwd"), "image id 0: file name"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "image id 0: there is no"),
        (lambda c: c["images"][1].update(file_name=c["images"][0]["file_name"]), "image id 5: a second image"),
        (lambda c: c["annotations"][0].update(image_id=99), "annotation id 7: image_id 99"),
        (lambda c: c["annotations"][0].update(id=8), "annotation id 8 .*duplicate id"),
        (lambda c: c["categories"][0].update(name="b"), "a name of its own"),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, float("inf"), 4]),
            "id 7: a number of bbox is inf",
        ),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 10**4000]), "annotation id 7: .* a huge integer"),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 4, 5]),
            r"id 7: 'bbox' should be 4 .*\[1, 2, 3, 4, 5",
        ),
        (lambda c: c["annotations"][0].update(bbox="1,2,3,4"), "annotation id 7: 'bbox' should be 4 numbers"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, "3", 4]), "annotation id 7: .* '3'. Write it without"),
        (lambda c: c["categories"][1].update(name=None), r"category id \d+: 'name' should be text, got None"),
        (lambda c: c["images"][0].update(width=50_000, height=50_000), "image id 0: 50000 x 50000 pixels"),
        (lambda c: c["images"][0].update(width=float("inf")), "image id 0: width is inf"),
    ],
)
def test_an_unsound_source_is_refused(tmp_path, change, message):
    source = data_set(tmp_path / "set", many(4))
    file = source / "annotations" / "instances_train.json"
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))
    with pytest.raises(DataError, match=message):
        subset_data(source, tmp_path / "out", count=4, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_names_written_with_backslashes_or_as_numbers_are_found_again(tmp_path):
    """`a\\b.png` is a file of `a/` on the system that wrote it; the new record says what training looks for."""
    source = data_set(tmp_path / "set", many(4))
    file = source / "annotations" / "instances_train.json"
    found = json.loads(file.read_text())
    for image, name, place in zip(found["images"], ("night\\1.png", 77), ("night/1.png", "77"), strict=False):
        path = source / "images" / "train" / place
        path.parent.mkdir(exist_ok=True)
        (source / "images" / "train" / image["file_name"]).rename(path)
        image["file_name"] = name
    file.write_text(json.dumps(found))
    subset_data(source, tmp_path / "out", count=4, **QUIET)
    check_images(read_coco(*find_split(tmp_path / "out", "train")), every=True)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "labels.json")
    with pytest.raises(DataError, match="a pipe or a device"):
        subset_data(tmp_path / "labels.json", tmp_path / "out", count=1, **QUIET)


@pytest.mark.parametrize("size", [0, 3000])
def test_a_full_disk_is_told_by_the_name_of_the_folder_and_leaves_nothing(tmp_path, size, capsys):
    """No file may grow beyond `size` bytes, which fails as a full disk does."""
    source = data_set(tmp_path / "set", many(40))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        status = main(["data", "subset", str(source), str(tmp_path / "out"), "--fraction", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capsys.readouterr().err
    assert status == 2 and str(tmp_path / "out") in told and "nothing was left behind" in told
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_commands_say_what_they_made(tmp_path, capsys):
    source, two = data_set(tmp_path / "set", many(10)), data_set(tmp_path / "two", many(6))
    file, images = str(source / "annotations" / "instances_train.json"), str(source / "images" / "train")
    assert main(["data", "split", file, str(tmp_path / "1"), "--images", images, "--val", "0.2"]) == 0
    assert capsys.readouterr().out.startswith("train 8 images, ")
    assert main(["data", "subset", str(source), str(tmp_path / "2"), "--count", "3"]) == 0
    assert main(["data", "filter", str(source), str(tmp_path / "3"), "--categories", "a, b", "--min-side", "1"]) == 0
    assert main(["data", "merge", str(source), str(two), str(tmp_path / "4"), "--pictures", "copy"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("train 16 images, ")
    assert main(["data", "split", str(tmp_path / "1"), str(tmp_path / "5")]) == 2
    assert "has a val split already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s / "annotations/instances_val.json").unlink() or os.mkfifo(s / "annotations/instances_val.json"),
         r"instances_val.json: no file that can be read"),
        (lambda s: (s / "annotations/instances_val.json").rename(s / "b") and
         (s / "annotations/instances_val.json").symlink_to("gone"), r"instances_val.json: no file that can be read"),
        (lambda s: shutil.rmtree(s / "images" / "val"), r"there is no folder .*images/val for its (pictures|images)"),
    ],
)  # fmt: skip
def test_a_split_that_is_there_by_half_is_not_left_out_without_a_word(tmp_path, change, message):
    source = data_set(tmp_path / "set", many(8))
    split_data(source, tmp_path / "two", val=0.5, **QUIET)
    change(tmp_path / "two")
    with pytest.raises(DataError, match=message):
        merge_data([tmp_path / "two", tmp_path / "two"], tmp_path / "out", **QUIET)


def test_a_split_that_a_json_file_names_must_be_there(tmp_path):
    source = data_set(tmp_path / "set", many(4))
    places = {"annotations": "annotations/instances_train.json", "images": "images/train"}
    (source / "data.json").write_text(json.dumps({"train": places, "val": places | {"annotations": "gone.json"}}))
    with pytest.raises(DataError, match=r"'val', 'annotations': there is no .*gone.json"):
        subset_data(source / "data.json", tmp_path / "out", count=2, **QUIET)


def test_an_empty_folder_that_cannot_be_replaced_is_filled(tmp_path, monkeypatch):
    """A disk mounted at OUT, as a container has it, cannot be removed; the work would be lost at its very end."""
    source, out = data_set(tmp_path / "set", many(4)), tmp_path / "out"
    (out / ".out.partial-999999999").mkdir(parents=True)  # of a run that was killed
    remove = Path.rmdir

    def busy(path):
        if path == out:
            raise OSError(16, "Device or resource busy", str(path))
        remove(path)

    monkeypatch.setattr(Path, "rmdir", busy)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    subset_data(source, out, count=3, **QUIET)
    assert sorted(path.name for path in out.iterdir()) == ["annotations", "images", "subset_report.json"]
    check_images(read_coco(*find_split(out, "train")), every=True)
    with pytest.raises(DataError, match="is not empty"):
        subset_data(source, out, count=3, **QUIET)
    assert len(list(out.iterdir())) == 3


ODD_NAMES = ["C:\\Users\\me\\photos\\a.png", "photos\\b.png", "/home/me/photos/c.png", "../sub/d.png", "e.png"]


def of_another_machine(folder):
    """Pictures in `photos` (one deeper), one annotation file beside it, names as another machine wrote them."""
    (folder / "photos/sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "c.png", "sub/d.png", "e.png")):
        Image.new("L", (40, 30), i).save(folder / "photos" / name)
    images = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(ODD_NAMES)]
    boxes = [{"id": i, "image_id": i, "category_id": 3, "bbox": [1, 2, 4, 2]} for i in range(5)]
    text = json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "größer"}]})
    (folder / "all.json").write_text("\ufeff" + text, encoding="utf-8")
    return folder / "all.json", folder / "photos"


def test_file_names_of_another_machine_are_found_in_the_folder_that_is_named(tmp_path, caplog):
    file, photos = of_another_machine(tmp_path)
    with caplog.at_level("INFO"):
        split_data(file, tmp_path / "out", val=0.4, images=photos, **QUIET)
    assert "4 images found under another name than the file gives, as 'C:" in caplog.text
    names = [image["file_name"] for split in ("train", "val") for image in content(tmp_path / "out", split)["images"]]
    assert sorted(names) == ["a.png", "b.png", "c.png", "e.png", "sub/d.png"]
    for split in ("train", "val"):
        check_images(read_coco(*find_split(tmp_path / "out", split)), every=True)
    (photos / "a.png").unlink()
    with pytest.raises(DataError, match=r"file name 'C:/Users/me/photos/a\.png' leaves the data folder"):
        split_data(file, tmp_path / "again", val=0.4, images=photos, **QUIET)


def test_an_image_is_not_given_to_the_record_of_another_folder(tmp_path):
    """cam2/0.png is not at hand: its boxes are not laid on the image of cam1, by whatever part of the name."""
    images = [{"id": i, "file_name": f"cam{i}/0.png", "width": 40, "height": 30} for i in (1, 2)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 4, 2]} for i in (1, 2)]
    (tmp_path / "all.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]})
    )
    (tmp_path / "photos").mkdir()
    Image.new("L", (40, 30)).save(tmp_path / "photos" / "0.png")
    with pytest.raises(DataError, match=r"'cam2/0\.png' is not in .*other records begin with 'cam1'"):
        split_data(tmp_path / "all.json", tmp_path / "out", val=0.5, images=tmp_path / "photos", **QUIET)


def test_a_split_of_any_name_is_kept(tmp_path):
    source = data_set(tmp_path / "set", many(12), splits=("train", "val", "Night 3"))
    told = subset_data(source, tmp_path / "out", count=6, of=["Training"], **QUIET)
    assert "Night 3 12 images" in told and len(content(tmp_path / "out", "Night 3")["images"]) == 12
    shutil.rmtree(source / "images" / "Night 3")
    with pytest.raises(DataError, match=r"instances_Night 3\.json: there is no folder"):
        subset_data(source, tmp_path / "again", count=6, **QUIET)


def test_copies_of_one_image_stay_in_one_part(tmp_path):
    source = data_set(tmp_path / "set", many(12))
    names = [source / "images" / "train" / name for name in many(12)]
    for name in names[1:6]:
        shutil.copy(names[0], name)
    split_data(source, tmp_path / "out", val=0.5, **QUIET)
    parts = [{image["file_name"] for image in content(tmp_path / "out", part)["images"]} for part in ("train", "val")]
    copies = {name.name for name in names[:6]}
    assert len(parts[0]) == len(parts[1]) == 6 and copies in parts
    for name in names[6:]:
        shutil.copy(names[0], name)
    told = split_data(source, tmp_path / "again", val=0.5, **QUIET)
    assert "6 images are copies of one in another part" in told


def test_an_image_of_two_folders_is_merged_into_one_split(tmp_path):
    one, two = data_set(tmp_path / "1", many(13)), data_set(tmp_path / "2", many(12), splits=("val",))
    told = merge_data([one, two], tmp_path / "out", **QUIET)
    assert "train 1 images" in told and "left out 12 (the same image is in val)" in told
    assert len(content(tmp_path / "out", "train")["annotations"]) == len(many(13)["cam1_012.png"])


def test_nothing_left_is_exit_code_1(tmp_path, capsys):
    source = data_set(tmp_path / "set", many(12), splits=("train", "val"))
    assert main(["data", "filter", str(source), str(tmp_path / "out"), "--min-side", "1000"]) == 1
    assert "no box is left of train. Ask for less." in capsys.readouterr().err and not (tmp_path / "out").exists()
