"""Objects365 as the published runs need it: the same division and sizes, at any size, whatever happens on the way."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from data_tools.convert import json_stream
from data_tools.objects365 import remap, resize
from data_tools.objects365.lists import read_lists, whole_number
from data_tools.objects365.shrink import shrink, shrunk_pixels, target_size
from dfine_lib.data.coco import find_split, read_coco
from dfine_lib.data.images import DataError
from dfine_tools.cli import main

CATEGORIES = [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers "}]


def file_name(version, patch, number):
    return f"images/v{version}/patch{patch}/objects365_v{version}_{number:08d}.jpg"


def published(folder, *, val=8, train=5, boxes=3, offset=1000, pictures=False, **dump):
    """A small set in the published layout; ids neither sorted nor from 1."""
    rng = np.random.default_rng(0)
    made = {}
    for split, count, first in (("val", val, 7), ("train", train, 7 + offset)):
        ids = (first + rng.permutation(count)).tolist()
        images = [
            {
                "height": 90,
                "id": i,
                "license": 5,
                "width": 120,
                "file_name": file_name(1 + i % 2, i % 5, i),
                "url": 'a"]}',
            }
            for i in ids
        ]
        annotations = [
            {"id": first * 10 + k, "iscrowd": k % 2, "isfake": 0, "area": 50.25, "isreflected": 0,
             "bbox": [1.5, 2.25, 10.125, 5], "image_id": ids[k % count], "category_id": 1 + k % 2}
            for k in rng.permutation(count * boxes).tolist()
        ]  # fmt: skip
        made[split] = {"images": images, "annotations": annotations, "categories": CATEGORIES, "licenses": [{"id": 5}]}
        (folder / split).mkdir(parents=True)
        (folder / split / f"zhiyuan_objv2_{split}.json").write_text(json.dumps(made[split], **dump))
        for image in images if pictures else ():
            path = folder / split / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return made


def by_lists(made, keep):
    """The published preparation in its plainest form."""
    ids = [image["id"] for image in made["val"]["images"]]
    kept, moved = ids[:keep], ids[keep:]
    images = [
        image | {"file_name": "images_from_val/" + image["file_name"].split("/", 1)[1]}
        for image in made["val"]["images"] if image["id"] in moved
    ]  # fmt: skip
    return {
        "val": {
            "images": [image for image in made["val"]["images"] if image["id"] in kept],
            "annotations": [box for box in made["val"]["annotations"] if box["image_id"] in kept],
            "categories": CATEGORIES,
        },
        "train": {
            "images": images + made["train"]["images"],
            "annotations": [box for box in made["val"]["annotations"] if box["image_id"] in moved]
            + made["train"]["annotations"],
            "categories": CATEGORIES,
        },
    }


def written(out, pattern="new_zhiyuan_objv2_{}.json"):
    return {split: json.loads((out / split / pattern.format(split)).read_text()) for split in ("train", "val")}


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- remap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
@pytest.mark.parametrize("dump", [{}, {"indent": 3}, {"separators": (",", ":")}, {"sort_keys": True}])
def test_the_division_is_that_of_the_published_program(tmp_path, monkeypatch, block, dump):
    monkeypatch.setattr(json_stream, "CHUNK", block)
    made = published(tmp_path / "set", **dump)
    before = contents(tmp_path / "set")
    result = remap(tmp_path / "set", tmp_path / "out", keep=3, progress=False)
    assert written(tmp_path / "out") == by_lists(made, 3)
    assert contents(tmp_path / "set") == before
    assert (result.images, result.boxes) == ({"val": 3, "train": 10}, {"val": 9, "train": 30})


def test_what_is_written_trains(tmp_path):
    published(tmp_path / "set", pictures=True)
    remap(tmp_path / "set", tmp_path / "out", keep=3, progress=False)
    for split, count in (("train", 10), ("val", 3)):
        index = read_coco(*find_split(tmp_path / "out" / "objects365.json", split))
        assert len(index) == count
        assert all(index.file_name(i).is_file() for i in range(count))


def test_fewer_validation_images_than_are_kept(tmp_path):
    made = published(tmp_path / "set", val=2)
    remap(tmp_path / "set", tmp_path / "out", progress=False)
    assert written(tmp_path / "out") == by_lists(made, 5000)


def test_ids_that_both_files_use_are_renumbered(tmp_path):
    published(tmp_path / "set", offset=0)  # images 7…14 and 7…11
    result = remap(tmp_path / "set", tmp_path / "out", keep=3, progress=False)
    train = written(tmp_path / "out")["train"]
    assert result.renumbered_images > 0 and result.renumbered_boxes > 0
    for key in ("images", "annotations"):
        assert len({record["id"] for record in train[key]}) == len(train[key])
    names = {image["id"]: image["file_name"] for image in train["images"]}
    boxes = [names[box["image_id"]].startswith("images_from_val") for box in train["annotations"]]
    assert sum(boxes) == 15 and len(boxes) == 30


def test_boxes_of_unlisted_validation_images_are_left_out_and_told(tmp_path):
    made = published(tmp_path / "set")
    made["val"]["annotations"][4]["image_id"] = 999_999
    (tmp_path / "set/val/zhiyuan_objv2_val.json").write_text(json.dumps(made["val"]))
    result = remap(tmp_path / "set", tmp_path / "out", keep=3, progress=False)
    assert result.lost_boxes == 1 and "1 validation boxes left out" in str(result)
    assert written(tmp_path / "out") == by_lists(made, 3)


def test_odd_writings_of_numbers_and_text_are_read(tmp_path):
    text = (
        r'{"info": {"id": 3, "x": [1, "]}"]}, "images": [], "annotations": [{"x": {"id": 9}, "name": "id", "id" : 4 ,'
    )
    text += r' "t": "a\\", "u": "\"id\": 5, }"}, {"id":5.0,"b":[{"id":1}]},{"t":"\\\"","id":12345678901234567}],'
    text += ' "categories": []}'
    (tmp_path / "odd.json").write_text(text)
    file = tmp_path / "odd.json"
    found = [(key, i, whole_number(file, key, i, record, "id")) for key, i, record, _ in read_lists(file) if i >= 0]
    assert found == [("annotations", 0, 4), ("annotations", 1, 5), ("annotations", 2, 12345678901234567)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "ends in the middle"),
        (lambda text: text + "x", "after the end"),
        (lambda text: text.replace('"annotations"', '"boxes"'), "no list 'annotations'"),
        (lambda text: text.replace("}, {", "} {", 1), "expected ',', got '{'"),
        (lambda text: text.replace("}, {", "},, {", 1), r"images\[1\] is no valid JSON"),
        (lambda text: text.replace("}, {", "}, 3, {", 1), r"images\[1\].*not an object"),
        (lambda text: text.replace('"id": ', '"id": "a", "x": ', 1), "should be a whole number, got 'a'"),
        (lambda text: text.replace('"id": ', '"di": ', 1), r"images\[0\]: 'id' should be a whole number"),
        (lambda text: '{"images": [' + "[" * 10**6 + "]" * 10**6 + "]}", "nested too deeply"),
        (lambda text: '{"info": ' + "[" * 10**6 + "]" * 10**6 + "}", "nested too deeply"),
        (lambda text: text.replace("images/v1", "images/../../v1"), "leaves the data folder"),
        (lambda text: "[]", "expected a JSON object"),
    ],
)
def test_damaged_files_are_refused_with_the_place(tmp_path, damage, message):
    published(tmp_path / "set")
    file = tmp_path / "set/val/zhiyuan_objv2_val.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(DataError, match=message) as caught:
        remap(tmp_path / "set", tmp_path / "out", keep=3, progress=False)
    assert "zhiyuan_objv2_val.json" in str(caught.value) and len(str(caught.value)) < 600
    assert not (tmp_path / "out/train/new_zhiyuan_objv2_train.json").exists()


def test_categories_of_another_version_are_refused(tmp_path):
    made = published(tmp_path / "set")
    made["train"]["categories"] = [{"id": 1, "name": "Sneakers"}, {"id": 2, "name": "Person"}]
    (tmp_path / "set/train/zhiyuan_objv2_train.json").write_text(json.dumps(made["train"]))
    with pytest.raises(DataError, match="same version"):
        remap(tmp_path / "set", tmp_path / "out", progress=False)


def test_a_remap_that_was_killed_resumes_and_leaves_nothing_behind(tmp_path):
    made, out = published(tmp_path / "set"), tmp_path / "out"
    remap(tmp_path / "set", out, keep=3, progress=False)
    val = out / "val/new_zhiyuan_objv2_val.json"
    # as a kill leaves it: the note of the work, one file whole, part of the other, no report
    work = json.loads((out / "objects365_report.json").read_text())["work"]
    (out / ".unfinished.json").write_text(json.dumps(work))
    (out / "objects365_report.json").unlink()
    train = out / "train/new_zhiyuan_objv2_train.json"
    (out / "train/.new_zhiyuan_objv2_train.json.17.part").write_bytes(train.read_bytes()[:500])
    train.unlink()
    kept = val.stat().st_mtime_ns
    remap(tmp_path / "set", out, keep=3, progress=False)
    assert written(out) == by_lists(made, 3)
    assert val.stat().st_mtime_ns == kept
    assert not list(out.rglob(".*"))


# ---- resize ----------------------------------------------------------------------------------------------------------


def large_pictures(tmp_path, sizes, suffixes=None):
    """One picture of each size (width, height), all in train; val has one that needs no change."""
    folder = tmp_path / "set"
    made = published(folder, val=1, train=len(sizes), pictures=True)
    for image, size in zip(made["train"]["images"], sizes):
        if size is not None:
            image["width"], image["height"] = size
            pixels = np.random.default_rng(1).integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / "train" / image["file_name"])
    save_train(folder, made)
    return folder, made


def save_train(folder, made):
    (folder / "train/zhiyuan_objv2_train.json").write_text(json.dumps(made["train"]))


def test_the_longer_side_becomes_640_and_boxes_follow(tmp_path):
    sizes = [(1280, 600), (700, 1001), (640, 480), (120, 90)]
    folder, made = large_pictures(tmp_path, sizes)
    before = contents(folder)
    result = resize(folder, tmp_path / "out", progress=False)
    train = written(tmp_path / "out", "zhiyuan_objv2_{}_resized.json")["train"]
    assert result.shrunk == result.made == 2 and contents(folder) == before
    wanted = [(640, 300), (447, 640), (640, 480), (120, 90)]  # int(700 · 640 / 1001) = 447
    for image, old, size, new in zip(train["images"], made["train"]["images"], sizes, wanted):
        assert (image["width"], image["height"]) == new
        smaller = max(size) > 640
        assert image["file_name"] == (old["file_name"].replace(".jpg", "_resized.jpg") if smaller else old["file_name"])
        with Image.open(tmp_path / "out/train" / image["file_name"]) as picture:
            assert picture.size == new
        scale = 640 / max(size) if smaller else 1
        for box in (box for box in train["annotations"] if box["image_id"] == image["id"]):
            np.testing.assert_allclose(box["bbox"], np.array([1.5, 2.25, 10.125, 5]) * scale, rtol=1e-12)
            np.testing.assert_allclose(box["area"], 50.25 * scale**2, rtol=1e-12)
    assert len(train["annotations"]) == len(made["train"]["annotations"])
    for split in ("train", "val"):
        assert len(read_coco(*find_split(tmp_path / "out" / "objects365.json", split)))


def test_missing_unreadable_and_swapped_pictures_are_told_and_survived(tmp_path):
    folder, made = large_pictures(tmp_path, [(800, 600)] * 5)
    images = made["train"]["images"]
    (folder / "train" / images[0]["file_name"]).unlink()
    damaged = folder / "train" / images[1]["file_name"]
    damaged.write_bytes(damaged.read_bytes()[:3000])
    images[2]["width"], images[2]["height"] = 600, 800
    images[3]["width"] = 444
    images[4]["width"], images[4]["height"] = 1600, 1200
    made["train"]["annotations"][0]["image_id"] = 31337
    save_train(folder, made)
    result = resize(folder, tmp_path / "out", progress=False)
    told = {what: [name.removeprefix("train/") for name in names] for what, names in result.listed.items()}
    assert told == {
        "left out, image missing": [images[0]["file_name"]],
        "left out, image unreadable": [images[1]["file_name"]],
        "width and height were swapped in the list": [images[2]["file_name"]],
        "left out, image of another size than the list gives": [images[3]["file_name"]],
        "boxes scaled to the size of the image, which was resized before": [images[4]["file_name"]],
        "boxes left out, their image is not listed": told["boxes left out, their image is not listed"],
    }
    assert json.loads((tmp_path / "out/objects365_report.json").read_text())["result"]["counts"] == result.counts
    train = written(tmp_path / "out", "zhiyuan_objv2_{}_resized.json")["train"]
    assert [(image["width"], image["height"]) for image in train["images"]] == [(640, 480)] * 2
    halved = [box for box in train["annotations"] if box["image_id"] == images[4]["id"]]
    assert halved and all(box["bbox"] == pytest.approx(np.array([1.5, 2.25, 10.125, 5]) * 0.4) for box in halved)
    assert {box["image_id"] for box in train["annotations"]} == {image["id"] for image in train["images"]}


def test_pictures_are_found_where_the_archives_unpack_them(tmp_path):
    folder, made = large_pictures(tmp_path, [(800, 600)] * 3)
    names = [image["file_name"] for image in made["train"]["images"]]
    patched = [name for name in names if "/patch" in name]
    for name in patched:
        (folder / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        target = folder / "train" / "/".join(name.split("/")[-2:])
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "train" / name).rename(target)
    result = resize(folder, tmp_path / "out", progress=False)
    assert patched and result.images["train"] == len(names) and not result.counts


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_picture_comes_out_upright(tmp_path, orientation):
    upright = np.zeros((900, 700, 3), np.uint8)
    upright[:300, :, 0] = 250  # red on top
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(upright).transpose(turn).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shrink(tmp_path / "a.jpg", tmp_path / "b.jpg", 450)
    with Image.open(tmp_path / "b.jpg") as picture:
        assert picture.size == target_size(700, 900, 450) and not picture.getexif()
        pixels = np.asarray(picture).astype(int)
    assert pixels[:140, :, 0].min() > 200 and pixels[160:, :, 0].max() < 50


@pytest.mark.parametrize(("side", "mean", "most"), [(1200, 0.05, 2), (2600, 2.0, 60)])
def test_levels_are_those_of_pillow(side, mean, most):
    """Decoded whole: within two levels of Pillow's Lanczos; at half scale, from four times the size on: close."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (side // 40, side // 30, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(pixels).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)).astype(int)
    grainy = (smooth + rng.integers(-8, 9, (*smooth.shape[:2], 1))).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grainy).save(file, "JPEG", quality=92)
    ours = shrunk_pixels(file.getvalue(), 640)
    with Image.open(file) as image:
        theirs = np.asarray(image.resize(target_size(*image.size, 640), Image.Resampling.LANCZOS))
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() < mean and difference.max() <= most


@pytest.mark.parametrize("mode", ["L", "CMYK", "P"])
def test_pictures_of_other_modes_are_shrunk(tmp_path, mode):
    Image.new("RGB", (800, 400), (10, 200, 30)).convert(mode).save(tmp_path / "a", "PNG" if mode == "P" else "JPEG")
    shrink(tmp_path / "a", tmp_path / "b.jpg", 200)
    with Image.open(tmp_path / "b.jpg") as picture:
        assert picture.size == (200, 100) and picture.mode == "RGB"


def test_a_resize_that_was_killed_repeats_and_loses_nothing(tmp_path):
    folder, made = large_pictures(tmp_path, [(1600, 1200)] * 24)
    command = [sys.executable, "-m", "dfine_tools.cli", "data", "objects365", "resize", folder, tmp_path / "out"]
    command += ["--workers", "1"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "out").rglob("*_resized.jpg"))) < 5 and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    made_before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_resized.jpg")}
    assert 5 <= len(made_before) < 24
    (tmp_path / "out/train").joinpath(".stale.part").write_bytes(b"half")
    result = resize(folder, tmp_path / "out", progress=False)
    assert {path: path.stat().st_mtime_ns for path in made_before} == made_before
    assert (result.shrunk, result.made) == (24, 24 - len(made_before))
    resize(folder, tmp_path / "whole", progress=False)
    whole, out = (written(tmp_path / name, "zhiyuan_objv2_{}_resized.json") for name in ("whole", "out"))
    assert out == whole
    for image in whole["train"]["images"]:
        first, second = (tmp_path / name / "train" / image["file_name"] for name in ("whole", "out"))
        assert first.read_bytes() == second.read_bytes()


# ---- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [remap, resize])
def test_the_folder_to_make_is_new_elsewhere_and_begun_with_the_same(tmp_path, work):
    folder, _ = large_pictures(tmp_path, [(800, 600)])
    with pytest.raises(DataError, match="lies inside"):
        work(folder, folder / "out", progress=False)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("")
    with pytest.raises(DataError, match="not empty"):
        work(folder, tmp_path / "used", progress=False)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".unfinished.json").write_text('{"what": "else"}')
    with pytest.raises(DataError, match="other files or settings"):
        work(folder, tmp_path / "begun", progress=False)
    with pytest.raises(DataError, match="download objects365"):
        work(tmp_path / "used", tmp_path / "out", progress=False)


@pytest.mark.parametrize("work", [remap, resize])
def test_finished_work_is_told_again_and_not_done_again(tmp_path, work):
    folder, made = large_pictures(tmp_path, [(800, 600)])
    first = work(folder, tmp_path / "out", progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    second = work(folder, tmp_path / "out", progress=False)
    assert (second.images, second.boxes) == (first.images, first.boxes)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    save_train(folder, made | {"train": made["train"] | {"licenses": []}})
    with pytest.raises(DataError, match="other files or settings"):
        work(folder, tmp_path / "out", progress=False)


def test_links_out_of_the_folder_are_not_followed_unasked(tmp_path):
    folder, made = large_pictures(tmp_path, [(800, 600)])
    path = folder / "train" / made["train"]["images"][0]["file_name"]
    path.rename(tmp_path / "elsewhere.jpg")
    path.symlink_to(tmp_path / "elsewhere.jpg")
    for work in (remap, resize):
        with pytest.raises(DataError, match="leads out of"):
            work(folder, tmp_path / work.__name__, progress=False)
        work(folder, tmp_path / work.__name__, progress=False, follow_links=True)


def test_commands_say_what_they_did_and_fail_with_2(tmp_path, capsys):
    published(tmp_path / "set", pictures=True)
    words = ["data", "objects365"]
    assert main([*words, "remap", str(tmp_path / "set"), str(tmp_path / "new"), "--keep", "3"]) == 0
    assert "val 3 images" in capsys.readouterr().out
    assert main([*words, "resize", str(tmp_path / "new"), str(tmp_path / "small"), "--size", "100"]) == 0
    assert "13 images shrunk" in capsys.readouterr().out
    assert main([*words, "remap", str(tmp_path / "nothing"), str(tmp_path / "x")]) == 2
    assert "no train/zhiyuan_objv2_train.json" in capsys.readouterr().err
    for step in ("remap", "resize"):
        assert main([*words, step, "--help"]) == 0
        assert f"example: dfine data objects365 {step}" in capsys.readouterr().out
