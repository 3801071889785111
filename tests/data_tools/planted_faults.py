"""Faults to plant in a copy of a sound data folder, each under the name of the check that must find it."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Plant = Callable[["Folder"], None]
FAULTS: dict[str, Plant] = {}  # each touches images of its own, so that all can be planted at once
ALONE: dict[str, Plant] = {}  # of a whole file: one at a time


class Folder:
    """A copy of a data folder of the first layout, its annotation files as objects until `save`."""

    def __init__(self, source: Path, place: Path) -> None:
        shutil.copytree(source, place)
        self.place = place
        self.content = {
            split: json.loads((place / "annotations" / f"instances_{split}.json").read_text())
            for split in ("train", "val")
        }
        self.images = self.content["train"]["images"]
        self.annotations = self.content["train"]["annotations"]
        self.categories = self.content["train"]["categories"]
        self.text: dict[str, bytes] = {}  # in place of what `save` would write
        own: dict[int, list[dict]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            own[annotation["image_id"]].append(annotation)
        self._fresh = [(image, own[image["id"]]) for image in self.images if len(own[image["id"]]) >= 3]

    def take(self) -> tuple[dict, list[dict]]:
        """A training image that no other fault has touched, and its annotations, three at least."""
        return self._fresh.pop()

    def box(self) -> dict:
        """An annotation of an image that no other fault has touched."""
        return self.take()[1][0]

    def file(self, image: dict, split: str = "train") -> Path:
        return self.place / "images" / split / image["file_name"]

    def save(self) -> Path:
        for split, content in self.content.items():
            target = self.place / "annotations" / f"instances_{split}.json"
            target.write_bytes(self.text.get(split, json.dumps(content).encode()))
        return self.place


def fault(name: str, alone: bool = False) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        (ALONE if alone else FAULTS)[name] = plant
        return plant

    return register


def change_box(name: str, bbox: object) -> None:
    @fault(name)
    def plant(folder: Folder) -> None:
        image, (annotation, *_) = folder.take()
        annotation["bbox"] = bbox(image, annotation["bbox"]) if callable(bbox) else bbox


change_box("box_malformed", [1, 2, "3"])
change_box("box_text", lambda image, box: [str(value) for value in box])
change_box("box_not_finite", [1.0, math.nan, 20.0, 20.0])
change_box("box_negative_side", lambda image, box: [box[0] + box[2], box[1] + box[3], -box[2], -box[3]])
change_box("box_no_area", [5, 5, 0, 10])
change_box("box_outside", lambda image, box: [image["width"] + 5, 5, 10, 10])
change_box("box_sticks_out", lambda image, box: [image["width"] - 10, 5, 30, 10])
change_box("box_tiny", [20, 20, 1, 12])
change_box("box_thin", [2, 20, 58, 2])
change_box("box_whole_image", lambda image, box: [0, 0, image["width"], image["height"]])


def change_file(name: str, change: Callable[[Image.Image, Path], None]) -> None:
    @fault(name)
    def plant(folder: Folder) -> None:
        path = folder.file(folder.take()[0])
        with Image.open(path) as image:
            picture = image.convert("RGB")
        change(picture, path)


def saved(picture: Image.Image, path: Path, form: str, **options: object) -> None:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    path.write_bytes(stream.getvalue())


def noise(seed: int, size_wh: tuple[int, int]) -> Image.Image:
    values = np.random.RandomState(seed).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(values).resize(size_wh)


def cut_off(picture: Image.Image, path: Path) -> None:
    saved(picture, path, "JPEG", quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turned_by_exif(picture: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(picture.resize((picture.width, picture.width * 3 // 4)), path, "JPEG", exif=exif)


def enormous_header(picture: Image.Image, path: Path) -> None:
    saved(picture, path, "PNG")
    content = bytearray(path.read_bytes())
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def half_grey(picture: Image.Image, path: Path) -> None:
    picture.paste((128, 128, 128), (0, picture.height * 2 // 3, picture.width, picture.height))
    saved(picture, path, "PNG")


def empty(picture: Image.Image, path: Path) -> None:
    path.write_bytes(b"")


def outside_link(picture: Image.Image, path: Path) -> None:
    away = path.parents[2] / f"elsewhere_{path.name}"
    path.rename(away)
    path.symlink_to(away)


def a_folder(picture: Image.Image, path: Path) -> None:
    path.unlink()
    path.mkdir()


change_file("image_missing", lambda picture, path: path.unlink())
change_file("image_elsewhere", lambda picture, path: path.rename(path.with_name(path.name.upper())))
change_file("image_no_file", a_folder)
change_file("image_empty", empty)
change_file("image_truncated", cut_off)
change_file("image_unreadable", lambda picture, path: path.write_bytes(b"<html>404 not found</html>" * 20))
change_file("image_enormous", enormous_header)
change_file("image_mode_unknown", lambda picture, path: saved(picture.convert("F"), path, "TIFF"))
change_file("image_cmyk", lambda picture, path: saved(picture.convert("CMYK"), path, "JPEG"))
change_file("image_16_bit", lambda picture, path: saved(
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), path, "PNG"))  # fmt: skip
change_file("image_palette", lambda picture, path: saved(picture.quantize(64), path, "PNG"))
change_file("image_alpha", lambda picture, path: saved(picture.convert("RGBA"), path, "PNG"))
change_file("image_grey", lambda picture, path: saved(picture.convert("L"), path, "PNG"))
change_file("image_extension", lambda picture, path: saved(picture, path, "BMP"))
change_file("image_animated", lambda picture, path: saved(
    picture, path, "GIF", save_all=True, append_images=[picture.transpose(0)]))  # fmt: skip
change_file("image_uniform", lambda picture, path: saved(Image.new("RGB", picture.size, "teal"), path, "PNG"))
change_file("image_half_grey", half_grey)
change_file("image_link_outside", outside_link)
change_file("image_size_differs", lambda picture, path: saved(
    picture.resize((picture.width // 2, picture.height // 2)), path, "PNG"))  # fmt: skip
change_file("image_turned", turned_by_exif)


def turned_with_size_as_stored(folder: Folder, boxes_xywh: list[list[int]]) -> None:
    """An image of 64 × 48 that EXIF turns, the size as stored in its record, every box one of those given."""
    image, boxes = folder.take()
    path = folder.file(image)
    turned_by_exif(Image.open(path).convert("RGB"), path)
    image["width"], image["height"] = Image.open(path).size
    for number, annotation in enumerate(boxes):
        left, top, width, height = boxes_xywh[number % len(boxes_xywh)]
        annotation["bbox"] = [left, top, width, height + number / 10]


@fault("image_exif_swapped")
def _(folder: Folder) -> None:
    turned_with_size_as_stored(folder, [[5, 40, 30, 20], [10, 5, 20, 20]])  # the first fits the upright image alone


@fault("image_exif_swapped where boxes fit the stored image", alone=True)
def _(folder: Folder) -> None:
    turned_with_size_as_stored(folder, [[40, 5, 22, 30], [10, 5, 20, 20]])


@fault("image_frame_undecided", alone=True)
def _(folder: Folder) -> None:
    turned_with_size_as_stored(folder, [[10, 5, 20, 20]])


@fault("image_size_swapped")
def _(folder: Folder) -> None:
    image, boxes = folder.take()
    path = folder.file(image)
    wide = Image.open(path).convert("RGB").resize((image["width"], image["width"] * 3 // 4))
    saved(wide, path, "PNG")
    image["width"], image["height"] = wide.height, wide.width
    for number, annotation in enumerate(boxes):
        annotation["bbox"] = [40, 5 + number, 22, 20]


@fault("image_orphan")
def _(folder: Folder) -> None:
    saved(noise(1, (64, 64)), folder.place / "images" / "train" / "nobody.png", "PNG")


@fault("image_aspect")
def _(folder: Folder) -> None:
    image, boxes = folder.take()
    saved(noise(2, (400, 80)), folder.file(image), "PNG")
    image["width"], image["height"] = 400, 80
    for number, annotation in enumerate(boxes):
        annotation["bbox"] = [5 * number + 1, 4, 30, 40 + number]


@fault("image_small")
def _(folder: Folder) -> None:
    image, boxes = folder.take()
    saved(noise(3, (40, 20)), folder.file(image), "PNG")
    image["width"], image["height"] = 40, 20
    for number, annotation in enumerate(boxes):
        annotation["bbox"] = [number % 8, 4, 20, 10 + number / 10]


@fault("duplicate")
def _(folder: Folder) -> None:
    shutil.copyfile(folder.file(folder.take()[0]), folder.file(folder.take()[0]))


FAULTS["duplicate_disagrees"] = FAULTS["duplicate"]


@fault("duplicate_in_both_splits")
def _(folder: Folder) -> None:
    shutil.copyfile(folder.file(folder.content["val"]["images"][0], "val"), folder.file(folder.take()[0]))


@fault("near_duplicate")
def _(folder: Folder) -> None:
    picture = noise(4, (folder.images[0]["width"], folder.images[0]["height"]))
    saved(picture, folder.file(folder.take()[0]), "JPEG", quality=95)
    brighter = picture.point([min(255, value + 6) for value in range(256)] * 3)
    saved(brighter, folder.file(folder.take()[0]), "JPEG", quality=60)


@fault("near_duplicate_in_both_splits")
def _(folder: Folder) -> None:
    image = folder.content["val"]["images"][1]
    picture = noise(5, (image["width"], image["height"]))
    saved(picture, folder.file(image, "val"), "PNG")
    saved(picture, folder.file(folder.take()[0]), "JPEG", quality=80)


@fault("mirrored_in_both_splits")
def _(folder: Folder) -> None:
    image = folder.content["val"]["images"][4]
    picture = noise(77, (image["width"], image["height"]))
    saved(picture, folder.file(image, "val"), "PNG")
    saved(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), folder.file(folder.take()[0]), "JPEG", quality=80)


def change_record(name: str, change: Callable[[Folder, dict, list[dict]], object]) -> None:
    @fault(name)
    def plant(folder: Folder) -> None:
        change(folder, *folder.take())


change_record("record_not_object", lambda folder, image, boxes: folder.annotations.append("box"))
change_record("image_id_invalid", lambda folder, image, boxes: image.update(id=None))
change_record("image_id_text", lambda folder, image, boxes: image.update(id=str(image["id"])))
change_record("annotation_id_invalid", lambda folder, image, boxes: boxes[0].pop("id"))
change_record("annotation_id_text", lambda folder, image, boxes: boxes[0].update(id="a7"))
change_record("annotation_id_repeated", lambda folder, image, boxes: boxes[0].update(id=boxes[1]["id"]))
change_record("image_id_repeated", lambda folder, image, boxes: image.update(id=folder.take()[0]["id"]))
change_record("reference_text", lambda folder, image, boxes: boxes[0].update(image_id=str(image["id"])))
change_record("annotation_orphan", lambda folder, image, boxes: boxes[0].update(image_id=987654321))
change_record("category_unknown", lambda folder, image, boxes: boxes[0].update(category_id=4711))
change_record("image_size_invalid", lambda folder, image, boxes: image.update(width=0))
change_record("file_name_missing", lambda folder, image, boxes: image.pop("file_name"))
change_record("file_name_leaves_folder", lambda folder, image, boxes: image.update(file_name="../../etc/passwd"))
change_record("file_name_repeated", lambda folder, image, boxes: image.update(file_name=folder.take()[0]["file_name"]))
change_record("crowd_invalid", lambda folder, image, boxes: boxes[0].update(iscrowd="no"))
change_record("crowd", lambda folder, image, boxes: boxes[0].update(iscrowd=1))
change_record("difficult", lambda folder, image, boxes: boxes[0].update(difficult=1))
change_record("keys_ignored", lambda folder, image, boxes: boxes[0].update(segmentation=[[1, 2, 3, 4, 5, 6]]))
change_record("box_from_outline", lambda folder, image, boxes: (
    boxes[0].pop("bbox"), boxes[0].update(segmentation=[[5, 6, 25, 6, 25, 20, 5, 20]])))  # fmt: skip
change_record("area_differs", lambda folder, image, boxes: boxes[0].update(area=1e7))
change_record("area_invalid", lambda folder, image, boxes: boxes[0].update(area="large"))
change_record("area_missing", lambda folder, image, boxes: boxes[0].pop("area"))
change_record("image_without_boxes", lambda folder, image, boxes: [one.update(image_id=1e30) for one in boxes])
change_record("box_repeated", lambda folder, image, boxes: folder.annotations.append(boxes[0] | {"id": 10**7}))
change_record("box_nearly_repeated", lambda folder, image, boxes: (
    boxes[0].update(bbox=[1, 1, 60, 60]), boxes[1].update(boxes[0] | {"id": boxes[1]["id"], "bbox": [1, 1, 60, 61]})
))  # fmt: skip
change_record("box_two_classes", lambda folder, image, boxes: folder.annotations.append(
    boxes[0] | {"id": 10**7 + 1, "category_id": next(
        one["id"] for one in folder.categories if one["id"] != boxes[0]["category_id"])}))  # fmt: skip


@fault("boxes_as_fractions")
def _(folder: Folder) -> None:
    image, boxes = folder.take()
    for annotation in boxes:
        scale = [image["width"], image["height"]] * 2
        annotation["bbox"] = [value / side for value, side in zip(annotation["bbox"], scale)]


def as_corners(boxes: list[dict]) -> None:
    for annotation in boxes:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]


@fault("boxes_as_corners")
def _(folder: Folder) -> None:
    image, boxes = folder.take()
    for number, annotation in enumerate(boxes):  # on the right, as boxes of one cell
        annotation["bbox"] = [image["width"] - 25, 10 + number, 20, 20]
    as_corners(boxes)


@fault("file_name_odd")
def _(folder: Folder) -> None:
    image, _ = folder.take()
    path = folder.file(image)
    image["file_name"] = "a\\" + image["file_name"]
    path.rename(folder.file(image))


@fault("file_name_case")
def _(folder: Folder) -> None:
    (one, _), (two, _) = folder.take(), folder.take()
    for image, name in ((one, "Same.png"), (two, "same.PNG")):
        path = folder.file(image)
        saved(Image.open(path).convert("RGB"), path, "PNG")
        image["file_name"] = name
        path.rename(folder.file(image))


# ---- of whole files --------------------------------------------------------------------------------------------------


@fault("boxes_as_corners in the whole file", alone=True)
def _(folder: Folder) -> None:
    as_corners(folder.annotations)


@fault("boxes_as_centres", alone=True)
def _(folder: Folder) -> None:
    for annotation in folder.annotations:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x + w / 2, y + h / 2, w, h]


@fault("boxes_axes_swapped", alone=True)
def _(folder: Folder) -> None:
    for image in folder.images:  # in square pictures x and y cannot be told apart
        path = folder.file(image)
        wide = noise(image["id"], (image["width"] * 2, image["height"]))
        saved(wide, path, "PNG")
        image["width"] *= 2
    for annotation in folder.annotations:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [y, 2 * x, h, 2 * w]


@fault("boxes_as_fractions of centres", alone=True)
def _(folder: Folder) -> None:
    sizes = {image["id"]: (image["width"], image["height"]) for image in folder.images}
    for annotation in folder.annotations:
        x, y, w, h = annotation["bbox"]
        wide, high = sizes[annotation["image_id"]]
        annotation["bbox"] = [(x + w / 2) / wide, (y + h / 2) / high, w / wide, h / high]


@fault("box_everywhere", alone=True)
def _(folder: Folder) -> None:
    while folder._fresh:
        folder.box()["bbox"] = [3, 4, 50, 45]


@fault("split_missing", alone=True)
def _(folder: Folder) -> None:
    save = folder.save

    def renamed() -> Path:
        out = save()
        os.rename(out / "annotations" / "instances_val.json", out / "annotations" / "other.json")
        return out

    folder.save = renamed


@fault("image_folder_missing", alone=True)
def _(folder: Folder) -> None:
    shutil.rmtree(folder.place / "images" / "val")


@fault("json_unreadable", alone=True)
def _(folder: Folder) -> None:
    folder.text["train"] = json.dumps(folder.content["train"]).encode()[:-100]


@fault("list_missing", alone=True)
def _(folder: Folder) -> None:
    del folder.content["train"]["categories"]


@fault("no_images", alone=True)
def _(folder: Folder) -> None:
    folder.images.clear()


@fault("no_boxes", alone=True)
def _(folder: Folder) -> None:
    folder.annotations.clear()


@fault("no_boxes_in_val", alone=True)
def _(folder: Folder) -> None:
    for annotation in folder.content["val"]["annotations"]:
        annotation["iscrowd"] = 1


@fault("no_categories", alone=True)
def _(folder: Folder) -> None:
    folder.categories.clear()


@fault("panoptic", alone=True)
def _(folder: Folder) -> None:
    content = folder.content["train"]
    content["categories"].append({"id": 99, "name": "sky", "isthing": 0})
    content["annotations"] = [
        {"image_id": image["id"], "file_name": image["file_name"], "segments_info": [
            {"id": 7 + n, "category_id": one["category_id"], "bbox": one["bbox"], "area": 9, "iscrowd": 0}
            for n, one in enumerate(folder.annotations) if one["image_id"] == image["id"]
        ] + [{"id": 3, "category_id": 99, "bbox": [0, 0, 60, 20], "area": 9, "iscrowd": 0}]}
        for image in folder.images
    ]  # fmt: skip


@fault("crowd_many", alone=True)
def _(folder: Folder) -> None:
    for annotation in folder.annotations[::2]:
        annotation["iscrowd"] = 1


@fault("image_without_boxes_many", alone=True)
def _(folder: Folder) -> None:
    first = {image["id"] for image in folder.images[:2]}
    folder.annotations[:] = [one for one in folder.annotations if one["image_id"] in first]


@fault("category_id_invalid", alone=True)
def _(folder: Folder) -> None:
    folder.categories[0]["id"] = 1.5


@fault("category_id_text", alone=True)
def _(folder: Folder) -> None:
    for record in (*folder.categories, *folder.content["val"]["categories"]):
        record["id"] = str(record["id"])


@fault("category_id_repeated", alone=True)
def _(folder: Folder) -> None:
    folder.categories.append(dict(folder.categories[0], name="other"))


@fault("category_name_missing", alone=True)
def _(folder: Folder) -> None:
    del folder.categories[0]["name"]


@fault("category_name_repeated", alone=True)
def _(folder: Folder) -> None:
    folder.categories[1]["name"] = folder.categories[0]["name"]
    folder.content["val"]["categories"][1]["name"] = folder.categories[0]["name"]


@fault("category_names_alike", alone=True)
def _(folder: Folder) -> None:
    folder.categories[1]["name"] = folder.categories[0]["name"].upper() + "s "


@fault("category_background", alone=True)
def _(folder: Folder) -> None:
    folder.categories.append({"id": 77, "name": "Background"})


@fault("category_unused", alone=True)
def _(folder: Folder) -> None:
    folder.categories.append({"id": 77, "name": "unicorn"})


@fault("category_few", alone=True)
def _(folder: Folder) -> None:
    folder.annotations[0]["category_id"] = 77
    folder.categories.append({"id": 77, "name": "unicorn"})


@fault("category_imbalance", alone=True)
def _(folder: Folder) -> None:
    one, other = (record["id"] for record in folder.categories[:2])
    for annotation in folder.annotations:
        annotation["category_id"] = one
    folder.annotations += [dict(folder.annotations[0], id=10**6 + i, bbox=[i / 9, 1, 30, 30]) for i in range(120)]
    folder.annotations[0]["category_id"] = other


@fault("category_renamed", alone=True)
def _(folder: Folder) -> None:
    records = folder.content["val"]["categories"]
    records[0]["name"], records[1]["name"] = records[1]["name"], records[0]["name"]


@fault("category_only_in_val", alone=True)
def _(folder: Folder) -> None:
    folder.content["val"]["categories"].append({"id": 99, "name": "surprise"})
    folder.content["val"]["annotations"][0]["category_id"] = 99


@fault("category_lists_differ", alone=True)
def _(folder: Folder) -> None:
    folder.content["val"]["categories"].append({"id": 99, "name": "surprise"})


@fault("category_without_val", alone=True)
def _(folder: Folder) -> None:
    gone = folder.annotations[0]["category_id"]
    records = folder.content["val"]["annotations"]
    records[:] = [one for one in records if one["category_id"] != gone]


@fault("category_ids_from_one", alone=True)
def _(folder: Folder) -> None:
    for content in folder.content.values():
        lowest = min(record["id"] for record in content["categories"])
        for record in content["categories"]:
            record["id"] += 1 - lowest
        for record in content["annotations"]:
            record["category_id"] += 1 - lowest


@fault("category_ids_sparse", alone=True)
def _(folder: Folder) -> None:
    folder.categories.append({"id": 900, "name": "far"})


@fault("name_in_both_splits", alone=True)
def _(folder: Folder) -> None:
    shutil.rmtree(folder.place / "images" / "val")
    for image, other in zip(folder.images, folder.content["val"]["images"]):
        other["file_name"] = image["file_name"]


@fault("fit_vanishing", alone=True)
def _(folder: Folder) -> None:
    for number, annotation in enumerate(folder.annotations):
        annotation["bbox"] = [number % 50, 5, 0.3, 0.3]


ALONE["fit_below_stride"] = ALONE["fit_vanishing"]


@fault("fit_queries", alone=True)
def _(folder: Folder) -> None:
    one = folder.annotations[0]
    folder.annotations += [dict(one, id=10**6 + i, bbox=[i % 40, i // 40, 20, 20]) for i in range(400)]


ALONE["fit_detections"] = ALONE["fit_denoising"] = ALONE["fit_queries"]


@fault("image_large", alone=True)
def _(folder: Folder) -> None:
    folder.images[0].update(width=6000, height=6000)


ALONE["fit_shrunk"] = ALONE["image_large"]


@fault("fit_count_drift", alone=True)
def _(folder: Folder) -> None:
    for split, count in (("train", 100), ("val", 300)):
        content = folder.content[split]
        one = content["annotations"][0]
        content["annotations"] += [
            dict(one, id=10**6 + i, bbox=[i % 40, i // 40, 20, 20], image_id=content["images"][i % 2]["id"])
            for i in range(count * len(content["images"]) // 3)
        ]


@fault("fit_size_drift", alone=True)
def _(folder: Folder) -> None:
    for split, side in (("train", 10), ("val", 40)):
        content = folder.content[split]
        one = content["annotations"][0]
        content["annotations"] += [dict(one, id=10**6 + i, bbox=[i % 20, i // 20, side, side]) for i in range(150)]


@fault("category_drift", alone=True)
def _(folder: Folder) -> None:
    for split, place in (("train", 0), ("val", 1)):
        content = folder.content[split]
        one = dict(content["annotations"][0], category_id=content["categories"][place]["id"])
        content["annotations"] += [dict(one, id=10**6 + i, bbox=[i % 20, i // 20, 20, 20]) for i in range(300)]


@fault("splits_are_one_file", alone=True)
def _(folder: Folder) -> None:
    place = folder.place / "annotations"
    save = folder.save

    def linked() -> Path:
        out = save()
        (place / "instances_val.json").unlink()
        (place / "instances_val.json").symlink_to(place / "instances_train.json")
        return out

    folder.save = linked
