"""The same annotations in several formats give the same boxes; there and back again changes nothing."""

import json
import random
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_tools.convert.conversion import convert
from data_tools.convert.report import Options
from data_tools.convert.writing import IGNORED

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
VOC100 = DATA / "formats" / "voc100"
needs_voc100 = pytest.mark.skipif(not VOC100.is_dir(), reason=f"needs {VOC100}")
needs_bccd = pytest.mark.skipif(not (DATA / "bccd").is_dir(), reason=f"needs {DATA / 'bccd'}")
needs_coco = pytest.mark.skipif(not (DATA / "coco_free").is_dir(), reason=f"needs {DATA / 'coco_free'}")
QUIET = {"progress": False}


def content(out, split="train"):
    return json.loads((Path(out) / "annotations" / f"instances_{split}.json").read_text())


def boxes_of(data):
    """File name → sorted (class, left, top, width, height, crowd)."""
    names = {category["id"]: category["name"] for category in data["categories"]}
    files = {image["id"]: Path(image["file_name"]).name for image in data["images"]}
    found = {name: [] for name in files.values()}
    for box in data["annotations"]:
        found[files[box["image_id"]]].append((names[box["category_id"]], *box["bbox"], box.get("iscrowd", 0)))
    return {name: sorted(rows) for name, rows in found.items()}


def assert_equal_boxes(found, expected, within):
    assert found.keys() == expected.keys()
    for name in expected:
        assert len(found[name]) == len(expected[name]), name
        for row in expected[name]:
            near = [
                other for other in found[name]
                if other[0] == row[0] and other[5] == row[5]
                and max(abs(a - b) for a, b in zip(other[1:5], row[1:5], strict=True)) <= within
            ]  # fmt: skip
            assert near, (name, row, found[name])


@needs_voc100
@pytest.mark.parametrize(
    ("read", "source"),
    [
        ("voc", "pascalvoc_format"), ("coco", "coco_format_v1/instances_default.json"), ("cvat", "cvat_format"),
        ("openimages", "openimages_format"), ("yolo", "yolo_format"), ("yolo", "yolo_format/obj.data"),
    ],
)  # fmt: skip
def test_all_writings_of_the_same_hundred_annotations_agree(tmp_path, read, source):
    truth = json.loads((VOC100 / "coco_format_v2" / "instances_v2.json").read_text())
    options = Options(sizes=VOC100 / "coco_format_v2" / "instances_v2.json", **QUIET)
    result = convert(VOC100 / source, tmp_path / "out", read=read, options=options)
    assert result.images == {"train": 100} and result.boxes == {"train": 273}
    assert not result.left_out("records") and not result.left_out("boxes") and result.changed.keys() <= {IGNORED}
    assert_equal_boxes(boxes_of(content(tmp_path / "out")), boxes_of(truth), within=0.01)
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in content(tmp_path / "out")["images"]}
    assert sizes == {image["file_name"]: (image["width"], image["height"]) for image in truth["images"]}


@needs_bccd
@pytest.mark.parametrize("write", ["voc", "yolo"])
def test_bccd_comes_back_from_voc_and_yolo_as_it_was(tmp_path, write):
    convert(DATA / "bccd", tmp_path / "there", read="coco", write=write, options=Options(**QUIET, keep_outside=True))
    categories = str(DATA / "bccd" / "annotations" / "instances_train.json")
    convert(
        tmp_path / "there", tmp_path / "back", read=write,
        options=Options(**QUIET, keep_outside=True, categories=categories),
    )  # fmt: skip
    for split, images in (("train", 280), ("val", 69)):
        truth = json.loads((DATA / "bccd" / "annotations" / f"instances_{split}.json").read_text())
        found = content(tmp_path / "back", split)
        expected = boxes_of(truth)
        lost = sum(box["bbox"][2] <= 0 or box["bbox"][3] <= 0 for box in truth["annotations"])
        assert lost == 0
        assert_equal_boxes(boxes_of(found), expected, within=1e-6)
        assert len(found["images"]) == images
        assert [c["id"] for c in found["categories"]] == [0, 1, 2]
        assert len(list((tmp_path / "back" / "images" / split).iterdir())) == images


@needs_coco
def test_the_published_yolo_labels_of_coco_agree_with_coco(tmp_path):
    labels = DATA / "formats" / "yolo" / "coco_val2017"
    options = Options(images=DATA / "coco_free" / "val2017", **QUIET)
    result = convert(labels, tmp_path / "out", read="yolo", options=options)
    assert result.left_out("records") == {"image missing": 5} and result.left_out("boxes") == {"image left out": 47}
    assert result.left_out("images") == {"no record names it": 11}  # they have no label file here
    found = boxes_of(content(tmp_path / "out"))
    assert len(found) == 6
    truth = boxes_of(json.loads((DATA / "coco_free" / "annotations" / "instances_val2017.json").read_text()))
    assert sum(map(len, found.values())) == 44
    for name, rows in found.items():  # the published labels leave crowd boxes out, and round to 6 digits
        expected = [row for row in truth[name] if not row[5]]
        assert_equal_boxes({name: rows}, {name: expected}, within=0.011)


@needs_coco
def test_coco_with_its_sparse_ids_is_kept_to_the_last_id(tmp_path):
    result = convert(DATA / "coco_free", tmp_path / "out", read="coco", options=Options(**QUIET, keep_outside=True))
    assert not result.left_out("records") and not result.left_out("boxes")
    for split in ("train", "val"):
        truth = json.loads((DATA / "coco_free" / "annotations" / f"instances_{split}2017.json").read_text())
        found = content(tmp_path / "out", split)
        assert found["categories"] == truth["categories"]
        keys = ("id", "file_name", "width", "height")
        assert found["images"] == [{key: image[key] for key in keys} for image in truth["images"]]
        keys = ("id", "image_id", "category_id", "iscrowd", "bbox")
        expected = {box["id"]: [box[key] for key in keys] for box in truth["annotations"]}
        assert {box["id"]: [box[key] for key in keys] for box in found["annotations"]} == expected


def random_set(folder, seed, count=6):
    """A COCO folder with pictures of many sizes, sparse ids, pictures without boxes, names with blanks and folders."""
    draw = random.Random(seed)
    images, boxes = [], []
    for i in range(count):
        width, height = draw.randint(1, 700), draw.randint(1, 700)
        name = draw.choice(["", "deep/er/", "a b/"]) + f"bild ü{i}.{draw.choice(['png', 'JPG', 'jpeg'])}"
        path = folder / "images" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height)).save(path)
        images.append({"id": 7 * i + 3, "file_name": name, "width": width, "height": height})
        for _ in range(draw.randint(0, 4) if i else 3):
            left, top = draw.uniform(0, width * 0.9), draw.uniform(0, height * 0.9)
            side = draw.uniform(0.01, 1) * (width - left), draw.uniform(0.01, 1) * (height - top)
            boxes.append({"id": len(boxes) + 11, "image_id": 7 * i + 3, "category_id": draw.choice([2, 5, 90]),
                          "bbox": [left, top, *side], "area": side[0] * side[1], "iscrowd": 0})  # fmt: skip
    categories = [{"id": 5, "name": "b & <c>"}, {"id": 2, "name": "ärger"}, {"id": 90, "name": "a"}]
    data = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(data))
    return data


@pytest.mark.parametrize("write", ["voc", "yolo", "coco"])
@pytest.mark.parametrize("seed", range(5))
def test_any_set_comes_back_as_it_was(tmp_path, write, seed):
    truth = random_set(tmp_path / "set", seed) if (tmp_path / "set").mkdir() is None else None
    categories = str(tmp_path / "set" / "annotations" / "instances_train.json")
    convert(tmp_path / "set", tmp_path / "there", read="coco", write=write, options=Options(**QUIET))
    result = convert(tmp_path / "there", tmp_path / "back", read=write, options=Options(**QUIET, categories=categories))
    assert not result.left_out("records") and not result.left_out("boxes") and result.changed == {}
    found = content(tmp_path / "back")
    assert_equal_boxes(boxes_of(found), boxes_of(truth), within=1e-5)
    assert {c["name"]: c["id"] for c in found["categories"]} == {c["name"]: c["id"] for c in truth["categories"]}
    assert {i["file_name"]: (i["width"], i["height"]) for i in found["images"]} == {
        i["file_name"]: (i["width"], i["height"]) for i in truth["images"]
    }
    for image in truth["images"]:
        before = tmp_path / "set" / "images" / "train" / image["file_name"]
        assert (tmp_path / "back" / "images" / "train" / image["file_name"]).read_bytes() == before.read_bytes()


def test_crowd_and_difficult_survive_voc_and_yolo_counts_what_it_cannot_say(tmp_path):
    (tmp_path / "set" / "annotations").mkdir(parents=True)
    (tmp_path / "set" / "images" / "train").mkdir(parents=True)
    Image.new("L", (40, 30)).save(tmp_path / "set" / "images" / "train" / "a.png")
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 10.5, 20]}
    boxes = [{**box, "id": 1, "iscrowd": 1}, {**box, "id": 2, "difficult": 1}, {**box, "id": 3}]
    data = {"images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}], "annotations": boxes,
            "categories": [{"id": 1, "name": "cell"}]}  # fmt: skip
    (tmp_path / "set" / "annotations" / "instances_train.json").write_text(json.dumps(data))
    convert(tmp_path / "set", tmp_path / "voc", read="coco", write="voc", options=Options(**QUIET))
    convert(tmp_path / "voc", tmp_path / "back", read="voc", options=Options(**QUIET))
    found = content(tmp_path / "back")["annotations"]
    assert [(row["iscrowd"], row.get("difficult", 0)) for row in found] == [(1, 0), (0, 1), (0, 0)]
    assert all(row["bbox"] == [1, 2, 10.5, 20] and row["area"] == 210 for row in found)
    result = convert(tmp_path / "set", tmp_path / "yolo", read="coco", write="yolo", options=Options(**QUIET))
    assert result.left_out("boxes") == {"crowd box, which YOLO has no word for": 1} and result.boxes == {"train": 2}
    assert (tmp_path / "yolo" / "labels" / "train" / "a.txt").read_text().splitlines()[0].startswith("0 0.15625 0.4 ")


@needs_bccd
def test_pycocotools_scores_what_comes_out(tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    convert(DATA / "bccd", tmp_path / "out", read="coco", options=Options(**QUIET))
    truth = coco.COCO(str(tmp_path / "out" / "annotations" / "instances_val.json"))
    found = [{**row, "score": 1.0} for row in truth.dataset["annotations"]]
    assert len(truth.loadRes(found).dataset["annotations"]) == 939


@needs_bccd
def test_what_comes_out_is_what_training_reads(tmp_path):
    from dfine_lib.data import check_images, find_split, read_coco

    convert(DATA / "bccd", tmp_path / "yolo", read="coco", write="yolo", options=Options(**QUIET))
    convert(tmp_path / "yolo", tmp_path / "coco", read="yolo", options=Options(**QUIET))
    for split, boxes in (("train", 3916), ("val", 939)):
        index = read_coco(*find_split(tmp_path / "coco", split))
        check_images(index, every=False)
        assert len(index.boxes_xyxy) == boxes and index.category_names == ("RBC", "WBC", "Platelets")


def test_nothing_heavy_is_imported_to_parse_the_command():
    import subprocess

    code = "import sys, dfine_tools.cli.data; assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
