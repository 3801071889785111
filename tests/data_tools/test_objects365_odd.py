"""Objects365 from files with a fault, and onto a disk that is full: told in one line, and no finished work is lost."""

from __future__ import annotations

import json
import resource

import numpy as np
import pytest
from PIL import Image

from data_tools.convert import json_stream
from data_tools.objects365 import remap, resize
from data_tools.objects365.shrink import shrink
from dfine_lib.data.images import DataError
from dfine_tools.cli import main
from tests.data_tools.test_objects365 import large_pictures, published, save_train, written

ODD_BOXES = (None, "1,2,3,4", [1, 2, 3], [1, 2, 3, 4, 5], [float("nan"), 1, 2, 3], [1, 2, float("inf"), 3], [True] * 4,
             [[1, 2], [3, 4]], [10**400, 1, 2, 3], {}, 7)  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"\xff\xfe" + data, "expected a JSON object|neither UTF-8 nor UTF-16"),
        (lambda data: b"{" + b'"\xff": 1, ' + data[1:], "neither UTF-8 nor UTF-16"),
        (lambda data: b"{5: 1," + data[1:], "a key should be text"),
        (lambda data: data.replace(b'"images": [', b'"images": null, "x": [', 1), "'images' should be a list"),
        (lambda data: b'{"info": tru, ' + data[1:], "info is no valid JSON"),
        (lambda data: b'{"info": ' + b"9" * 6000 + b", " + data[1:], "thousands of digits"),
        (lambda data: b'{"info": "' + b"x" * (3 << 20) + b'", ' + data[1:], "info is larger than 1 MiB"),
        (lambda data: data[:5], "ends in the middle"),
        (lambda data: data.replace(b'"image_id": ', b'"image_id": "a", "x": ', 1),
         r"annotations\[0\] \(id \d+\): 'image_id' .* got 'a'. Write it as a number"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place_and_the_way_out(tmp_path, monkeypatch, damage, message):
    monkeypatch.setattr(json_stream, "LARGEST_RECORD", 1 << 20)
    published(tmp_path / "set")
    file = tmp_path / "set/val/zhiyuan_objv2_val.json"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=message) as error:
        remap(tmp_path / "set", tmp_path / "out", keep=3, progress=False)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("work", [remap, resize])
def test_a_second_image_with_an_id_is_refused(tmp_path, work):
    folder, made = large_pictures(tmp_path, [(800, 600), (700, 700)])
    made["train"]["images"][1]["id"] = made["train"]["images"][0]["id"]
    save_train(folder, made)
    with pytest.raises(DataError, match=f"a second image with id {made['train']['images'][0]['id']}"):
        work(folder, tmp_path / "out", progress=False)


@pytest.mark.parametrize("size", [(800, 600), (320, 240)])
def test_boxes_that_are_not_four_numbers_are_left_out_and_told(tmp_path, size):
    folder, made = large_pictures(tmp_path, [size] * len(ODD_BOXES))
    good = len(made["train"]["annotations"]) - len(ODD_BOXES)
    for record, box in zip(made["train"]["annotations"], ODD_BOXES, strict=False):
        record["bbox"] = box
    save_train(folder, made)
    result = resize(folder, tmp_path / "out", progress=False)
    assert result.counts == {"boxes left out, 'bbox' is not four numbers": len(ODD_BOXES)}
    first = made["train"]["annotations"][0]["id"]
    assert f"annotations[0] (id {first}): None" in str(result) and result.boxes["train"] == good
    train = written(tmp_path / "out", "zhiyuan_objv2_{}_resized.json")["train"]
    assert len(train["annotations"]) == good
    assert all(np.isfinite(record["bbox"]).all() and len(record["bbox"]) == 4 for record in train["annotations"])


def test_an_area_may_be_that_of_a_large_picture_and_one_that_is_no_number_is_made_anew(tmp_path):
    folder, made = large_pictures(tmp_path, [(4000, 3000)])
    records = made["train"]["annotations"]
    records[0] |= {"bbox": [0, 0, 4000, 3000], "area": 12_000_000}
    records[1] |= {"bbox": [0, 0, 400, 300], "area": float("nan")}
    save_train(folder, made)
    result = resize(folder, tmp_path / "out", progress=False)
    areas = [box["area"] for box in written(tmp_path / "out", "zhiyuan_objv2_{}_resized.json")["train"]["annotations"]]
    assert areas[:2] == pytest.approx([640 * 480, 64 * 48])
    assert result.counts == {"'area' was no number, now that of the box": 1}


def test_a_resize_goes_on_after_its_annotation_file_was_mended(tmp_path):
    """Hours of shrinking are not lost to a fault in the file: mended, it has another size and time."""
    folder, made = large_pictures(tmp_path, [(800, 600)] * 6)
    images = made["train"]["images"]
    own, images[1]["id"] = images[1]["id"], images[0]["id"]
    save_train(folder, made)
    with pytest.raises(DataError, match="a second image"):
        resize(folder, tmp_path / "out", progress=False)
    made_before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_resized.jpg")}
    images[1] |= {"id": own, "license": 1234567}
    save_train(folder, made)
    result = resize(folder, tmp_path / "out", progress=False)
    assert {path: path.stat().st_mtime_ns for path in made_before} == made_before
    assert (len(made_before), result.shrunk, result.made) == (6, 6, 0)
    other = tmp_path / "other"
    folder.rename(other)
    (tmp_path / "out/objects365_report.json").rename(tmp_path / "out/.unfinished.json")
    with pytest.raises(DataError, match="other files or settings"):
        resize(other, tmp_path / "out", progress=False)


def test_a_full_disk_ends_a_resize_and_leaves_no_half_picture(tmp_path, capsys):
    """Pillow takes the bytes that a full disk still has room for as all of them: 13 of 14 pictures came out cut off."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder, _ = large_pictures(tmp_path, [(800, 600)] * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        with pytest.raises(OSError, match=r"large|space"):
            shrink(tmp_path / "a.png", tmp_path / "b.jpg", 250)
        words = ["data", "objects365", "resize", str(folder), str(tmp_path / "out")]
        assert main(words) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{tmp_path / 'out'}: " in (told := capsys.readouterr().err) and "the same command resumes" in told
    assert not list((tmp_path / "out").rglob("*_resized.jpg"))
    assert main(words) == 0
    for path in (tmp_path / "out").rglob("*_resized.jpg"):
        with Image.open(path) as picture:
            picture.load()
    assert len(json.loads((tmp_path / "out/train/zhiyuan_objv2_train_resized.json").read_text())["images"]) == 2
