"""A small COCO folder with planted faults, for tests that hold the doctor and the converter against each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

SIZE = (64, 48)  # width, height
BOX = [10, 12, 20, 16]
CLASSES = ("cup", "ball")


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image that looks like no other, with a white object at `BOX`."""
    noise = np.random.RandomState(seed).randint(0, 200, (6, 8, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize(size)
    image.paste((255, 255, 255), (10, 12, 30, 28))
    return image


class SmallCoco:
    """Train and val of a COCO folder, as objects until `save`; every image has two boxes."""

    def __init__(self, place: Path, train: int = 5, val: int = 3) -> None:
        self.place = place
        self.content: dict[str, dict[str, Any]] = {}
        (place / "annotations").mkdir(parents=True)
        for start, (split, count) in ((0, ("train", train)), (100, ("val", val))):
            folder = place / "images" / split
            folder.mkdir(parents=True)
            images, annotations = [], []
            for k in range(start, start + count):
                picture(k).save(folder / f"{k:03}.png")
                images.append({"id": k, "file_name": f"{k:03}.png", "width": SIZE[0], "height": SIZE[1]})
                for n, (box, label) in enumerate(((BOX, 1), ([1, 2, 30.5, 40 + k % 5], 2))):
                    annotations.append({"id": 10 * k + n, "image_id": k, "category_id": label, "bbox": list(box),
                                        "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
            categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)]
            self.content[split] = {"images": images, "annotations": annotations, "categories": categories}

    def image(self, split: str, k: int) -> dict[str, Any]:
        """The record of the k-th image."""
        return self.content[split]["images"][k]

    def boxes(self, split: str, k: int) -> list[dict[str, Any]]:
        """The annotations of the k-th image."""
        identity = self.image(split, k)["id"]
        return [one for one in self.content[split]["annotations"] if one["image_id"] == identity]

    def file(self, split: str, k: int) -> Path:
        """The file of the k-th image."""
        return self.place / "images" / split / self.image(split, k)["file_name"]

    def save(self) -> Path:
        """Write the annotation files."""
        for split, content in self.content.items():
            (self.place / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        return self.place


Plant = Callable[[SmallCoco, str, int], None]


def turned(stored_box: list[float] | None, said: str, orientation: int = 6) -> Plant:
    """An image that EXIF turns; `said`: which size its record has; `stored_box`: in pixels of the stored image."""

    def plant(data: SmallCoco, split: str, k: int) -> None:
        image = picture(1000 + k + 50 * (split == "val"), (64, 40))  # stored; 40 x 64 upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = data.file(split, k).with_suffix(".jpg")
        data.file(split, k).unlink()
        image.save(path, exif=exif, quality=95)
        size = (64, 40) if said == "stored" else (40, 64)
        data.image(split, k).update(file_name=path.name, width=size[0], height=size[1])
        for n, box in enumerate(data.boxes(split, k)):
            box["bbox"] = [5, 6, 20 + n, 20] if stored_box is None else [*stored_box[:3], stored_box[3] - n]

    return plant


def on_file(change: Callable[[Path], object]) -> Plant:
    """A change of the file of an image."""
    return lambda data, split, k: change(data.file(split, k))


def on_record(**values: Any) -> Plant:
    """Other values in the record of an image; a callable makes the value from the old one."""

    def plant(data: SmallCoco, split: str, k: int) -> None:
        record = data.image(split, k)
        record.update({key: value(record.get(key)) if callable(value) else value for key, value in values.items()})

    return plant


def on_box(**values: Any) -> Plant:
    """Other values in the first annotation of an image."""
    return lambda data, split, k: data.boxes(split, k)[0].update(values)


def renamed(to: Callable[[str], str]) -> Plant:
    """The file of an image is called otherwise, its record is not."""

    def plant(data: SmallCoco, split: str, k: int) -> None:
        path = data.file(split, k)
        target = path.parent / to(path.name)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)

    return plant


def both(*plants: Plant) -> Plant:
    """One after the other."""

    def plant(data: SmallCoco, split: str, k: int) -> None:
        for one in plants:
            one(data, split, k)

    return plant


def resized(factor: float) -> Plant:
    """The image is another size than when it was annotated."""
    size = round(SIZE[0] * factor), round(SIZE[1] * factor)
    return on_file(lambda path: Image.open(path).resize(size).save(path))


def all_boxes(change: Callable[[list[float]], list[float]]) -> Plant:
    """All boxes of an image are written otherwise."""

    def plant(data: SmallCoco, split: str, k: int) -> None:
        for box in data.boxes(split, k):
            box["bbox"] = change(box["bbox"])

    return plant


def swapped(data: SmallCoco, split: str, k: int) -> None:
    """Width and height change places in the record; boxes fit the image alone."""
    data.image(split, k).update(width=SIZE[1], height=SIZE[0])
    data.boxes(split, k)[0]["bbox"] = [40, 5, 22, 20]


def another_name(name: str) -> Plant:
    """The file gets a name, its record the same as it is written in an address."""

    def plant(data: SmallCoco, split: str, k: int) -> None:
        data.file(split, k).rename(data.file(split, k).with_name(f"{split}{k} {name}"))
        data.image(split, k)["file_name"] = quote(f"{split}{k} {name}")

    return plant


def save_as(form: str, **options: Any) -> Callable[[Path], None]:
    """Write the image in another format under its name."""

    def change(path: Path) -> None:
        image = Image.open(path).convert("RGB")
        more = {"save_all": True, "append_images": [image.rotate(180)]} if form in ("GIF", "MPO") else {}
        image.save(path, form, **more, **options)

    return change


def to_suffix(suffix: str, change: Callable[[Path], object] = lambda path: None) -> Plant:
    """File and record get another ending."""

    def plant(data: SmallCoco, split: str, k: int) -> None:
        path = data.file(split, k)
        change(path)
        path.rename(path.with_suffix(suffix))
        data.image(split, k)["file_name"] = path.with_suffix(suffix).name

    return plant


# Faults of one image that leave the rest as it is: convert takes it, or leaves it out by name.
FAULTS: dict[str, Plant] = {
    "nothing": lambda data, split, k: None,
    "image missing": on_file(lambda path: path.unlink()),
    "no image": on_file(lambda path: path.write_bytes(b"<html>404</html>" * 9)),
    "empty file": on_file(lambda path: path.write_bytes(b"")),
    "cut off": on_file(lambda path: path.write_bytes(path.read_bytes()[:-60])),
    "Git LFS pointer": on_file(lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n")),
    "folder of that name": on_file(lambda path: (path.unlink(), path.mkdir())),
    "link to itself": on_file(lambda path: (path.unlink(), path.symlink_to(path))),
    "values without a range": to_suffix(".tif", lambda path: Image.open(path).convert("F").save(path, "TIFF")),
    "HEIC": to_suffix(".heic", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" * 9)),
    "GIF of two frames": to_suffix(".gif", save_as("GIF")),
    "MPO of two frames": to_suffix(".jpg", save_as("MPO", quality=95)),
    "grey": on_file(lambda path: Image.open(path).convert("L").save(path)),
    "smaller": resized(0.5),
    "larger": resized(2),
    "another aspect ratio": on_file(lambda path: Image.open(path).resize((64, 64)).save(path)),
    "swapped sides": swapped,
    "swapped sides without evidence": on_record(width=SIZE[1], height=SIZE[0]),
    "turned, upright size": turned(None, "upright"),
    "turned by half": turned(None, "stored", 3),
    "no size": on_record(width=0, height=0),
    "size as text": on_record(width="64", height="48"),
    "URL-encoded name": another_name("my cup.png"),
    "URL-encoded accents": another_name("caffè.png"),
    "decomposed accents": both(
        renamed(lambda name: f"e\u0301{name}"), on_record(file_name=lambda name: f"\u00e9{name}")),
    "deeper folder": renamed(lambda name: f"more/{name}"),
    "another ending": renamed(lambda name: name.replace(".png", ".jpeg")),
    "another case": renamed(lambda name: name.replace(".png", ".PNG")),
    "leading folder too many": on_record(file_name=lambda name: f"images/{name}"),
    "two candidates": both(renamed(lambda name: f"one/{name}"), lambda data, split, k: (
        (data.file(split, k).parent / "two").mkdir(exist_ok=True),
        picture(7).save(data.file(split, k).parent / "two" / data.file(split, k).name))),
    "box wholly outside": on_box(bbox=[70, 5, 10, 10]),
    "box sticks out": on_box(bbox=[50, 30, 40, 40]),
    "box sticks out a little": on_box(bbox=[50, 30, 14.4, 10]),
    "no area": on_box(bbox=[5, 5, 0, 10]),
    "hardly any area": on_box(bbox=[5, 5, 1e-8, 10]),
    "negative width": on_box(bbox=[30, 12, -20, 16]),
    "box as text": on_box(bbox=["10", "12.5", "20", "16"]),
    "no box": on_box(bbox=None),
    "outline without a box": on_box(bbox=None, segmentation=[[5, 6, 25, 6, 25, 20, 5, 20]]),
    "no annotations": lambda data, split, k: [data.content[split]["annotations"].remove(one)
                                              for one in data.boxes(split, k)],
    "orphan annotation": on_box(image_id=987654),
    "unknown category": on_box(category_id=4711),
    "crowd": on_box(iscrowd=1),
    "box twice": lambda data, split, k: data.content[split]["annotations"].append(
        data.boxes(split, k)[0] | {"id": 10**6 + k + 1000 * (split == "val")}),
    "image nobody names": lambda data, split, k: picture(500 + k).save(data.file(split, k).with_name(f"nobody{k}.png")),
}  # fmt: skip


def _of_both(data: SmallCoco, split: str, k: int) -> None:
    data.file("train", k).write_bytes(data.file("val", 0).read_bytes())


# Of the whole set, one at a time.
OF_THE_SET: dict[str, Plant] = {
    "an image in both splits": _of_both,
    "turned, boxes of the stored image": turned([40, 5, 22, 30], "stored"),
    "turned, stored size and boxes of the upright image": turned([5, 40, 30, 22], "stored"),
    "mirrored and turned, boxes of the stored image": turned([40, 5, 22, 30], "stored", 5),
    "class of val alone": lambda data, split, k: (
        data.content["val"]["categories"].append({"id": 3, "name": "plate"}),
        data.boxes("val", 0)[0].update(category_id=3)),
    "root category named as a class": lambda data, split, k: [
        content["categories"].insert(0, {"id": 0, "name": "ball", "supercategory": "none"})
        for content in data.content.values()],
}  # fmt: skip

# What the converter refuses as a whole.
REFUSED: dict[str, Plant] = {
    "turned, undecided": turned([5, 6, 20, 20], "stored"),
    "fractions": lambda data, split, k: [
        box.update(bbox=[value / side for value, side in zip(box["bbox"], SIZE * 2, strict=True)])
        for content in data.content.values() for box in content["annotations"]],
    "fractions in one image": all_boxes(
        lambda box: [value / side for value, side in zip(box, SIZE * 2, strict=True)]),
    "names of another machine": on_record(file_name=lambda name: f"C:\\photos\\{name}"),
    "names that climb out": on_record(file_name=lambda name: f"../../{name}"),
    "two classes of one name": lambda data, split, k: [
        one.update(name="cup") for content in data.content.values() for one in content["categories"]],
    "one class number, two names": lambda data, split, k: data.content["val"]["categories"][0].update(name="plate"),
    "two records of one image": lambda data, split, k: data.content[split]["images"].append(
        data.image(split, k) | {"id": 9999}),
    "two images of one number": lambda data, split, k: data.image(split, k).update(id=data.image(split, k + 1)["id"]),
    "one image in both splits by path": lambda data, split, k: data.image("val", 0).update(
        file_name="../train/" + data.image("train", k)["file_name"]),
    "number beyond all images": on_box(bbox=[0, 0, 5e8, 10]),
    "not finite": on_box(bbox=[0, float("nan"), 5, 10]),
    "crowd of another value": on_box(iscrowd=7),
    "image without a number": on_record(id=None),
    "image without a name": on_record(file_name=None),
    "negative size": on_record(width=-64),
}  # fmt: skip
