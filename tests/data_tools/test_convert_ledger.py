"""The books balance: for every format, what a source holds is what was taken and what was left out, by reason.

Sources are drawn: images and boxes of every fate, written in the ten formats by the few lines of each below, so that
what is there is known independently of any reader.
"""

import itertools
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.convert.conversion import convert
from data_tools.convert.report import FILE, Options

WIDTH, HEIGHT = 100, 80
FORMATS = ("voc", "yolo", "coco", "objects365", "labelme", "cvat", "createml", "csv", "openimages", "crowdhuman")
BOXES = {  # fate → left, top, width, height in pixels; the reason why it is left out
    "good": ((10, 12, 30, 20), None),
    "no area": ((10, 12, 0, 20), "no area"),
    "outside": ((110, 12, 30, 20), "wholly outside of its image"),
    "negative": ((40, 12, -30, 20), "negative width or height"),
    "other class": ((10, 12, 30, 20), "class 'dog' is not in the list of categories"),
}
IMAGES = {  # fate → the reason why it is left out
    "good": None,
    "missing": "image missing",
    "unreadable": "image unreadable (UnidentifiedImageError)",
    "other size": "image of another size than its annotation says",
    "copy": "the same image is in val",  # of train
    "unlisted": "no record names it",
}
CANNOT = {  # what a format has no way to write
    "yolo": {"missing", "other size", "negative", "unlisted"}, "labelme": {"negative"}, "createml": {"other size"},
    "openimages": {"other size"}, "crowdhuman": {"other size", "other class"},
}  # fmt: skip


@dataclass
class Item:
    """An image, or a record of none."""

    split: str
    fate: str
    boxes: list[str] = field(default_factory=list)
    name: str = ""

    @property
    def said(self):
        return (WIDTH, HEIGHT + 33) if self.fate == "other size" else (WIDTH, HEIGHT)


def build(root, read, items):
    """Write the images, then the annotations of those that are listed."""
    for i, item in enumerate(items):
        item.name = f"p{i:02}.png"
        if item.fate == "missing":
            continue
        home = root / item.split if read in ("voc", "labelme", "createml") else root / "images" / item.split
        home.mkdir(parents=True, exist_ok=True)
        if item.fate == "unreadable":
            (home / item.name).write_bytes(b"no image")
        else:  # a copy has the colour of the first image of val
            Image.new("RGB", (WIDTH, HEIGHT), (1 if item.fate == "copy" else i, 90, 60)).save(home / item.name)
    listed = [item for item in items if item.fate != "unlisted"]
    globals()[f"write_{read}"](root, {split: [i for i in listed if i.split == split] for split in ("train", "val")})


def rows(item):
    for fate in item.boxes:
        yield BOXES[fate][0], "dog" if fate == "other class" else "cat"


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def write_voc(root, splits):
    for split, items in splits.items():
        for item in items:
            found = "".join(
                f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
                f"<ymax>{y + h}</ymax></bndbox></object>"
                for (x, y, w, h), name in rows(item)
            )
            size = "<size><width>{}</width><height>{}</height></size>".format(*item.said)
            content = f"<annotation><filename>{item.name}</filename>{size}{found}</annotation>"
            put(root / split / item.name.replace(".png", ".xml"), content)


def write_yolo(root, splits):
    for split, items in splits.items():
        for item in items:
            lines = [f"{int(name == 'dog')} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}"
                     for (x, y, w, h), name in rows(item)]  # fmt: skip
            put(root / "labels" / split / item.name.replace(".png", ".txt"), "\n".join(lines))
    put(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")


def coco(items):
    ids, images, boxes = itertools.count(1), [], []
    for i, item in enumerate(items):
        images.append({"id": i, "file_name": item.name, "width": item.said[0], "height": item.said[1]})
        boxes += [{"id": next(ids), "image_id": i, "category_id": 1 + (name == "dog"), "bbox": box, "iscrowd": 0}
                  for box, name in rows(item)]  # fmt: skip
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": boxes, "categories": categories}


def write_coco(root, splits):
    for split, items in splits.items():
        put(root / "annotations" / f"instances_{split}.json", coco(items))


def write_objects365(root, splits):
    for split, items in splits.items():
        put(root / f"zhiyuan_objv2_{split}.json", coco(items))


def write_labelme(root, splits):
    for split, items in splits.items():
        for item in items:
            shapes = [{"label": name, "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}
                      for (x, y, w, h), name in rows(item)]  # fmt: skip
            content = {"imagePath": item.name, "imageWidth": item.said[0], "imageHeight": item.said[1]}
            put(root / split / item.name.replace(".png", ".json"), content | {"shapes": shapes})


def write_cvat(root, splits):
    found = []
    for split, items in splits.items():
        for item in items:
            boxes = "".join(f'<box label="{name}" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>'
                            for (x, y, w, h), name in rows(item))  # fmt: skip
            width, height = item.said
            found.append(f'<image id="{len(found)}" name="{item.name}" subset="{split}" width="{width}" '
                         f'height="{height}">{boxes}</image>')  # fmt: skip
    put(root / "annotations.xml", f"<annotations>{''.join(found)}</annotations>")


def write_createml(root, splits):
    for split, items in splits.items():
        put(root / split / "_annotations.createml.json", [
            {"image": item.name, "annotations": [
                {"label": name, "coordinates": {"x": x + w / 2, "y": y + h / 2, "width": w, "height": h}}
                for (x, y, w, h), name in rows(item)]} for item in items])  # fmt: skip


def write_csv(root, splits):
    for split, items in splits.items():
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for item in items:
            about = f"{item.name},{item.said[0]},{item.said[1]}"
            lines += [f"{about},{name},{x},{y},{x + w},{y + h}" for (x, y, w, h), name in rows(item)]
            lines += [] if item.boxes else [f"{about},,,,,"]
        put(root / f"{split}.csv", "\n".join(lines))


def write_openimages(root, splits):
    for split, items in splits.items():
        lines = ["ImageID,LabelName,XMin,XMax,YMin,YMax"]
        lines += [f"{item.name[:-4]},{name},{x / WIDTH},{(x + w) / WIDTH},{y / HEIGHT},{(y + h) / HEIGHT}"
                  for item in items for (x, y, w, h), name in rows(item)]  # fmt: skip
        put(root / f"{'validation' if split == 'val' else split}-annotations-bbox.csv", "\n".join(lines))


def write_crowdhuman(root, splits):
    for split, items in splits.items():
        people = {item.name[:-4]: [{"tag": "person", "fbox": box} for box, _ in rows(item)] for item in items}
        lines = [json.dumps({"ID": name, "gtboxes": boxes}) for name, boxes in people.items()]
        put(root / f"annotation_{split}.odgt", "\n".join(lines))


def expected(items):
    """Found and left out by reason, of images, records and boxes, from what was written."""
    there = [item for item in items if item.fate != "missing"]
    listed = [item for item in items if item.fate != "unlisted"]
    images = Counter(IMAGES[item.fate] for item in there)
    records = Counter(IMAGES[item.fate] for item in listed)
    boxes = Counter(
        BOXES[fate][1] if item.fate == "good" else "image left out" for item in listed for fate in item.boxes
    )
    return {
        kind: {"found": sum(counts.values()), "taken": counts.pop(None, 0), "left_out": dict(counts)}
        for kind, counts in (("images", images), ("records", records), ("boxes", boxes))
    }


def check(read, items):
    folder = Path(tempfile.mkdtemp())
    try:
        build(folder / "set", read, items)
        categories = "person" if read == "crowdhuman" else "cat"
        options = Options(categories=categories, progress=False)
        result = convert(folder / "set", folder / "out", read=read, options=options)
        report = json.loads((folder / "out" / FILE).read_text())
        books = expected(items)
        for kind, sums in books.items():
            assert report["ledger"][kind] == sums, kind
        for sums in report["ledger"].values():
            assert sums["found"] == sums["taken"] + sum(sums["left_out"].values())
        listed = Counter((entry["kind"], entry["what"]) for entry in report["listed"] if entry["kind"] != "changed")
        told = {(kind, reason): n for kind, sums in report["ledger"].items() for reason, n in sums["left_out"].items()}
        assert listed == told
        written = [json.loads((folder / f"out/annotations/instances_{split}.json").read_text())
                   for split in ("train", "val")]  # fmt: skip
        assert sum(len(part["images"]) for part in written) == books["images"]["taken"] == sum(result.images.values())
        assert sum(len(part["annotations"]) for part in written) == books["boxes"]["taken"]
        assert len([path for path in (folder / "out/images").rglob("*") if path.is_file()]) == books["images"]["taken"]
    finally:
        shutil.rmtree(folder)


def base():
    """What keeps each split from being empty."""
    return [Item("train", "good", ["good"]), Item("val", "good", ["good"])]


@pytest.mark.parametrize("read", FORMATS)
def test_the_books_balance_with_every_kind_of_thing_left_out(read):
    cannot = CANNOT.get(read, set())
    every = [fate for fate in BOXES if fate not in cannot]
    items = [Item(split, fate, list(every)) for split in ("train", "val") for fate in IMAGES
             if fate not in cannot and (fate != "copy" or split == "train")]  # fmt: skip
    check(read, base() + items)


@pytest.mark.parametrize("read", FORMATS)
@settings(max_examples=5, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_the_books_balance_for_any_source(read, data):
    cannot = CANNOT.get(read, set())
    fates = [fate for fate in IMAGES if fate not in cannot]
    least = 1 if read == "openimages" else 0  # it has no row for an image without boxes
    boxes = st.lists(st.sampled_from([fate for fate in BOXES if fate not in cannot]), min_size=least, max_size=3)
    item = st.builds(Item, st.sampled_from(["train", "val"]), st.sampled_from(fates), boxes)
    drawn = data.draw(st.lists(item, max_size=6))
    check(read, base() + [one for one in drawn if one.fate != "copy" or one.split == "train"])
