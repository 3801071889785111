"""Small sources for the tests of the readers, and what a conversion makes of them."""

import json
import zlib

from PIL import Image

from data_tools.convert.conversion import convert
from data_tools.convert.report import Options


def picture(path, width=200, height=100, **more):
    """An image of one colour, another one for each path: images of equal content belong to one split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(zlib.crc32("/".join(path.parts[-4:]).encode()).to_bytes(4, "big")[:3])
    Image.new("RGB", (width, height), colour).save(path, **more)
    return path


def write(path, content):
    """A text, or JSON of anything else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def converted(source, out, read, split="train", **options):
    """The result, the boxes by image as (class, left, top, width, height), and the COCO file of one split."""
    result = convert(source, out, read=read, options=Options(progress=False, **options))
    data = json.loads((out / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    found = {image["file_name"]: [] for image in data["images"]}
    files = {image["id"]: image["file_name"] for image in data["images"]}
    for box in data["annotations"]:
        found[files[box["image_id"]]].append((names[box["category_id"]], *box["bbox"]))
    return result, found, data


def voc(name, *objects, size=(200, 100)):
    """A VOC annotation; objects as (class, xmin, ymin, xmax, ymax, more XML)."""
    rows = "".join(
        f"<object><name>{label}</name>{more}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for label, x1, y1, x2, y2, more in objects
    )
    size = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{size}{rows}</annotation>"
