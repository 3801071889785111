"""Whoever follows what a message says gets on: every command and every "do this" is tried."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_coco import (
    BOX,
    FAULTS,
    OF_THE_SET,
    REFUSED,
    SIZE,
    Plant,
    SmallCoco,
    all_boxes,
    on_box,
    on_file,
    on_record,
    picture,
    turned,
)

from data_tools.doctor import CHECKS, examine
from dfine_lib.data import DataError, check_images, read_coco
from dfine_tools import cli
from dfine_tools.cli.remedies import with_remedy

LEFT, TOP, WIDTH, HEIGHT = BOX
RIGHT, BOTTOM = LEFT + WIDTH, TOP + HEIGHT
COUNT = 10  # images, so that a fifth is two


def images(folder: Path, start: int = 0, count: int = COUNT, ending: str = ".jpg") -> list[str]:
    """Images in a folder; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{k:03}{ending}" for k in range(start, start + count)]
    for k, name in enumerate(names, start):
        picture(k).save(folder / name, quality=95)
    return names


def coco(names: list[str], **more: object) -> dict:
    return {
        "images": [{"id": k, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for k, name in enumerate(names)],
        "annotations": [{"id": k, "image_id": k, "category_id": 1, "bbox": BOX, "area": WIDTH * HEIGHT, "iscrowd": 0}
                        for k in range(len(names))],
        "categories": [{"id": 1, "name": "cup"}],
    } | more  # fmt: skip


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def voc_xml(name: str) -> str:
    box = f"<xmin>{LEFT}</xmin><ymin>{TOP}</ymin><xmax>{RIGHT}</xmax><ymax>{BOTTOM}</ymax>"
    return (f"<annotation><filename>{name}</filename><size><width>64</width><height>48</height><depth>3</depth></size>"
            f"<object><name>cup</name><bndbox>{box}</bndbox></object></annotation>")  # fmt: skip


def voc_devkit(place: Path) -> None:
    home = place / "VOC2012"
    names = images(home / "JPEGImages")
    for name in names:
        write(home / "Annotations" / name.replace(".jpg", ".xml"), voc_xml(name))
    write(home / "ImageSets" / "Main" / "train.txt", "\n".join(name[:-4] for name in names[:7]))
    write(home / "ImageSets" / "Main" / "val.txt", "\n".join(name[:-4] for name in names[7:]))


def voc_flat(place: Path) -> None:
    for name in images(place):
        write(place / name.replace(".jpg", ".xml"), voc_xml(name))


def yolo_row() -> str:
    return f"0 {(LEFT + WIDTH / 2) / 64} {(TOP + HEIGHT / 2) / 48} {WIDTH / 64} {HEIGHT / 48}\n"


def yolo_ultralytics(place: Path) -> None:
    for start, split in ((0, "train"), (50, "val")):
        for name in images(place / "images" / split, start):
            write(place / "labels" / split / name.replace(".jpg", ".txt"), yolo_row())
    write(place / "data.yaml", "train: images/train\nval: images/val\nnames: [cup]\n")


def yolo_roboflow(place: Path) -> None:
    for start, split in ((0, "train"), (50, "valid")):
        for name in images(place / split / "images", start):
            write(place / split / "labels" / name.replace(".jpg", ".txt"), yolo_row())
    write(place / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cup']\n")


def yolo_beside(place: Path) -> None:
    for name in images(place):
        write(place / name.replace(".jpg", ".txt"), yolo_row())
    write(place / "classes.txt", "cup\n")


def labelme(place: Path) -> None:
    for name in images(place):
        shape = {"label": "cup", "points": [[LEFT, TOP], [RIGHT, BOTTOM]], "shape_type": "rectangle", "group_id": None}
        write(place / name.replace(".jpg", ".json"), {
            "version": "5.2.1", "flags": {}, "shapes": [shape], "imagePath": name, "imageData": None,
            "imageHeight": 48, "imageWidth": 64})  # fmt: skip


def cvat(place: Path) -> None:
    rows = "".join(
        f'<image id="{k}" name="{name}" width="64" height="48"><box label="cup" xtl="{LEFT}" ytl="{TOP}" '
        f'xbr="{RIGHT}" ybr="{BOTTOM}" occluded="0"/></image>' for k, name in enumerate(images(place / "images"))
    )  # fmt: skip
    write(place / "annotations.xml", f'<?xml version="1.0"?><annotations><version>1.1</version>{rows}</annotations>')


def csv(place: Path) -> None:
    rows = [f"{name},64,48,cup,{LEFT},{TOP},{RIGHT},{BOTTOM}" for name in images(place)]
    write(place / "_annotations.csv", "\n".join(["filename,width,height,class,xmin,ymin,xmax,ymax", *rows]))


def createml(place: Path) -> None:
    at = {"x": LEFT + WIDTH / 2, "y": TOP + HEIGHT / 2, "width": WIDTH, "height": HEIGHT}
    write(place / "_annotations.createml.json", [
        {"image": name, "annotations": [{"label": "cup", "coordinates": at}]} for name in images(place)
    ])  # fmt: skip


def openimages(place: Path) -> None:
    rows = [f"{name[:-4]},xclick,/m/1,1,{LEFT / 64},{RIGHT / 64},{TOP / 48},{BOTTOM / 48},0,0,0,0,0"
            for name in images(place / "train")]  # fmt: skip
    head = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    write(place / "train-annotations-bbox.csv", "\n".join([head, *rows]))
    write(place / "class-descriptions-boxable.csv", "/m/1,cup\n")


def crowdhuman(place: Path) -> None:
    rows = [json.dumps({"ID": name[:-4], "gtboxes": [{"tag": "person", "fbox": BOX, "vbox": BOX, "hbox": BOX}]})
            for name in images(place / "Images")]  # fmt: skip
    write(place / "annotation_train.odgt", "\n".join(rows))


def roboflow_coco(*splits: str) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        for k, split in enumerate(splits):
            content = coco(images(place / split, 50 * k))
            content["categories"].insert(0, {"id": 0, "name": "cups", "supercategory": "none"})
            write(place / split / "_annotations.coco.json", content)

    return make


def cvat_coco(*splits: str) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        for k, split in enumerate(splits):
            write(place / "annotations" / f"instances_{split}.json", coco(images(place / "images" / split, 50 * k)))

    return make


def one_file(place: Path) -> None:
    write(place / "labels.json", coco(images(place / "my images")))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "VOCdevkit": voc_devkit, "voc flat": voc_flat, "ultralytics": yolo_ultralytics, "yolo of roboflow": yolo_roboflow,
    "yolo beside the images": yolo_beside, "labelme": labelme, "cvat": cvat, "csv of roboflow": csv,
    "createml": createml, "openimages": openimages, "crowdhuman": crowdhuman,
    "coco of roboflow": roboflow_coco("train", "valid", "test"),
    "coco of roboflow, train alone": roboflow_coco("train"),
    "coco of cvat": cvat_coco("default"), "coco of cvat, subsets": cvat_coco("Train", "Validation"),
    "coco of cvat, one subset": cvat_coco("Train"), "one file": one_file,
}  # fmt: skip


def follow(message: str) -> str:
    """Do what a message says; returns the data to give next."""
    if saved := re.search(r"save this as (.+?) and give that as the data: (\{.*\})\.", message):
        Path(saved[1]).write_text(saved[2])
        return saved[1]
    (command,) = set(re.findall(r"`(dfine [^`]*)`", message))
    words = shlex.split(command)
    assert cli.main(words[1:]) in (0, None), command
    return words[4]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_in_another_layout_is_named_and_the_commands_lead_to_a_sound_data_folder(
    tmp_path, monkeypatch, capsys, name
):
    LAYOUTS[name](tmp_path / "it is here")
    monkeypatch.chdir(tmp_path)
    data = "it is here"
    for _ in range(4):
        cli.main(["doctor", data])
        told = capsys.readouterr().out
        missing = re.search(r"ERROR split_missing \[\w+\].*?\n    (.*)", told)
        if missing is None:
            break
        data = follow(missing[1])
        capsys.readouterr()
    found = examine(data)
    assert not found.of("error"), found.text()
    boxes = [one for split in found.splits for one in split.annotations]
    assert len(boxes) >= COUNT - 2
    assert all(one["bbox"] == pytest.approx(BOX, abs=0.01) for one in boxes)
    assert {split.name for split in found.splits} == {"train", "val"}


def test_a_yolo_folder_without_class_names_is_asked_for_them(tmp_path, monkeypatch, capsys):
    yolo_beside(tmp_path / "set")
    (tmp_path / "set" / "classes.txt").unlink()
    cli.main(["doctor", str(tmp_path / "set")])
    assert "--from yolo --categories CLASS,CLASS`" in capsys.readouterr().out


def test_from_inside_of_the_folder_the_command_names_a_place_outside_of_it(tmp_path, monkeypatch, capsys):
    voc_devkit(tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set")
    cli.main(["doctor", "."])
    follow(re.search(r"split_missing.*?\n    (.*)", capsys.readouterr().out)[1])
    assert not examine(tmp_path / "my_set").of("error")


# ---- what the doctor says to do --------------------------------------------------------------------------------------

remove_box: Plant = lambda data, split, k: data.content[split]["annotations"].remove(data.boxes(split, k)[0])  # noqa: E731
write_box = on_box(bbox=list(BOX), area=WIDTH * HEIGHT)


def remove_image(data: SmallCoco, split: str, k: int) -> None:
    for one in data.boxes(split, k):
        data.content[split]["annotations"].remove(one)
    data.content[split]["images"].pop(k)


def copy_again(data: SmallCoco, split: str, k: int) -> None:
    picture(k).save(data.file(split, k), "PNG")


def first_in_pixels(data: SmallCoco, split: str, k: int) -> None:
    all_boxes(lambda box: [value * side for value, side in zip(box, SIZE * 2, strict=True)])(data, split, k)


def every_in_pixels(data: SmallCoco, split: str, k: int) -> None:
    for name, content in data.content.items():
        for n in range(len(content["images"])):
            first_in_pixels(data, name, n)


def turn_upright(data: SmallCoco, split: str, k: int) -> None:
    path = data.file(split, k)
    Image.open(path).save(path, exif=b"")


def swap_size(data: SmallCoco, split: str, k: int) -> None:
    record = data.image(split, k)
    record["width"], record["height"] = record["height"], record["width"]


def scale_all(data: SmallCoco, split: str, k: int) -> None:
    on_record(width=SIZE[0] // 2, height=SIZE[1] // 2)(data, split, k)
    all_boxes(lambda box: [value / 2 for value in box])(data, split, k)
    for box in data.boxes(split, k):
        box["area"] /= 4


def correct_name(data: SmallCoco, split: str, k: int) -> None:
    data.image(split, k)["file_name"] = f"more/{data.image(split, k)['file_name']}"


def merge_classes(data: SmallCoco, split: str, k: int) -> None:
    for content in data.content.values():
        content["categories"] = content["categories"][:1]
        for one in content["annotations"]:
            one["category_id"] = content["categories"][0]["id"]


def remove_root(data: SmallCoco, split: str, k: int) -> None:
    for content in data.content.values():
        content["categories"] = [one for one in content["categories"] if one["id"] != 0]


# The name of a check: the fault, and what its `what_to_do` says, done by hand; one row for each thing that it says.
CURES: list[tuple[str, Plant, Plant]] = [
    ("image_missing", FAULTS["image missing"], copy_again),
    ("image_missing", FAULTS["image missing"], remove_image),
    ("image_elsewhere", FAULTS["deeper folder"], correct_name),
    ("image_no_file", FAULTS["folder of that name"], remove_image),
    ("image_empty", FAULTS["empty file"], copy_again),
    ("image_truncated", FAULTS["cut off"], copy_again),
    ("image_unreadable", FAULTS["no image"], copy_again),
    ("image_mode_unknown", FAULTS["values without a range"], on_file(
        lambda path: Image.open(path).convert("L").save(path, "TIFF"))),
    ("image_size_swapped", FAULTS["swapped sides"], swap_size),
    ("image_exif_swapped", turned([5, 40, 30, 22], "stored"), swap_size),
    ("image_exif_swapped", turned([40, 5, 22, 30], "stored"), turn_upright),
    ("image_size_differs", FAULTS["smaller"], scale_all),
    ("image_size_invalid", FAULTS["no size"], on_record(width=SIZE[0], height=SIZE[1])),
    ("file_name_leaves_folder", REFUSED["names of another machine"], on_record(
        file_name=lambda name: name.rpartition("\\")[2])),
    ("file_name_repeated", REFUSED["two records of one image"], lambda data, split, k: (
        data.content[split]["images"].pop())),
    ("image_id_repeated", REFUSED["two images of one number"], on_record(id=1)),
    ("image_id_invalid", REFUSED["image without a number"], lambda data, split, k: data.image(split, k).update(id=k)),
    ("box_malformed", FAULTS["no box"], write_box),
    ("box_not_finite", REFUSED["not finite"], remove_box),
    ("box_text", FAULTS["box as text"], write_box),
    ("box_from_outline", FAULTS["outline without a box"], on_box(bbox=[5, 6, 20, 14], area=280)),
    ("box_negative_side", FAULTS["negative width"], write_box),
    ("box_no_area", FAULTS["no area"], remove_box),
    ("box_outside", FAULTS["box wholly outside"], write_box),
    ("boxes_as_fractions", REFUSED["fractions in one image"], first_in_pixels),
    ("boxes_as_fractions", REFUSED["fractions"], every_in_pixels),
    ("annotation_orphan", FAULTS["orphan annotation"], lambda data, split, k: [
        data.content[split]["annotations"].remove(one) for one in data.content[split]["annotations"][:]
        if one["image_id"] == 987654]),
    ("category_unknown", FAULTS["unknown category"], lambda data, split, k: data.content[split]["categories"].append(
        {"id": 4711, "name": "plate"})),
    ("category_name_repeated", REFUSED["two classes of one name"], merge_classes),
    ("category_name_repeated", OF_THE_SET["root category named as a class"], remove_root),
    ("category_only_in_val", OF_THE_SET["class of val alone"], lambda data, split, k: (
        data.content["train"]["categories"].append({"id": 3, "name": "plate"}))),
    ("category_renamed", REFUSED["one class number, two names"], lambda data, split, k: (
        data.content["val"].update(categories=data.content["train"]["categories"]))),
    ("duplicate_in_both_splits", OF_THE_SET["an image in both splits"], remove_image),
    ("crowd_invalid", REFUSED["crowd of another value"], on_box(iscrowd=1)),
]  # fmt: skip


def errors(place: Path, **options: object) -> set[str]:
    return {one.name for one in examine(place, **options).of("error")}


@pytest.mark.parametrize(("name", "plant", "cure"), CURES, ids=[row[0] for row in CURES])
def test_what_a_finding_says_to_do_helps(tmp_path, name, plant, cure):
    data = SmallCoco(tmp_path / "set")
    plant(data, "train", 1)
    assert name in errors(data.save())
    cure(data, "train", 1)
    assert errors(data.save()) == set()


def test_exif_upright_or_stored_decides_as_the_finding_says(tmp_path):
    data = SmallCoco(tmp_path / "set")
    REFUSED["turned, undecided"](data, "train", 1)
    assert errors(data.save()) == {"image_frame_undecided"}
    command = ["doctor", str(data.place), "--fix", str(tmp_path / "copy"), "--exif", "stored"]
    assert cli.main(command) == 1
    assert errors(tmp_path / "copy") == set()


@pytest.mark.parametrize("name", [
    "image missing", "no image", "empty file", "cut off", "smaller", "swapped sides", "values without a range",
    "names of another machine", "turned", "root category", "fractions",
])  # fmt: skip
def test_the_repair_that_training_names_lets_it_go_on(tmp_path, name, capsys):
    plants = FAULTS | {"names of another machine": REFUSED["names of another machine"],
                       "fractions": REFUSED["fractions"], "turned": turned([40, 5, 22, 30], "stored"),
                       "root category": OF_THE_SET["root category named as a class"]}  # fmt: skip
    data = SmallCoco(tmp_path / "set")
    plants[name](data, "train", 1)

    def train_reads(place: Path) -> None:
        check_images(read_coco(place / "annotations/instances_train.json", place / "images/train"), every=False)

    with pytest.raises(DataError) as refusal:
        train_reads(data.save())
    (command,) = set(re.findall(r"`(dfine [^`]*)`", with_remedy(refusal.value)))
    words = [{"DATA": str(data.place), "OUT": str(tmp_path / "out")}.get(word, word) for word in command.split()]
    assert cli.main(words[1:]) == 1
    train_reads(tmp_path / "out")


def test_a_hint_in_every_finding_is_about_something_that_exists():
    """Options that a finding names are options of the command line."""
    said = " ".join(f"{check.what_to_do} {check.why}" for check in CHECKS)
    known = {"--image-size", "--weights", "--set", "--batch-size", "--exif"}
    assert set(re.findall(r"--[a-z-]+", said)) <= known
