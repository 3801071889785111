"""What a data folder holds that is laid out in another way, and how to use it all the same."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from data_tools.image_formats import is_image_name
from dfine_lib.errors import DfineError

_NAMES = {"train": ("train",), "val": ("val", "valid", "validation")}
_ANNOTATIONS = (
    "annotations/instances_{0}2017.json", "annotations/instances_{0}.json", "annotations/{0}.json",
    "{0}/_annotations.coco.json", "{0}/annotations.json", "{0}.json",
)  # fmt: skip
_IMAGES = ("images/{0}2017", "images/{0}", "{0}2017", "{0}", "images")

_FORMATS = {
    "voc": "Pascal VOC", "yolo": "YOLO", "labelme": "LabelMe", "cvat": "CVAT for images", "csv": "a CSV of boxes",
    "createml": "CreateML", "openimages": "Open Images", "crowdhuman": "CrowdHuman", "objects365": "Objects365",
    "coco": "COCO in another layout",
}  # fmt: skip
_CLASS_LISTS = ("*.yaml", "*.yml", "*.data", "obj.names", "classes.txt", "labels/classes.txt", "names.txt")
_COLUMNS = {
    "filename", "file_name", "file", "image", "image_path", "path", "image_name", "image_id", "class", "label",
    "category", "name", "class_name", "label_name", "xmin", "ymin", "x_min", "y_min", "x1", "y1", "left", "top",
    "bbox_x", "bbox_y", "x", "y",
}  # fmt: skip
_HEAD = 1 << 16  # bytes of a file that are looked at
_MOST_READ, _MOST_FOLDERS, _MOST_FILES = 20, 2000, 500  # files of an ending, folders, files of a folder


def how_to_use(folder: Path, split: str) -> str:
    """How a folder of another layout is used: its files named, its format converted, or the folder inside it given."""
    if not folder.is_dir():
        return "Is the path right?"
    found = {name: place for name in _NAMES if (place := _elsewhere(folder, name))}
    there = {n for n in _NAMES for year in ("", 2017) if (folder / f"annotations/instances_{n}{year}.json").is_file()}
    if split == "val" and there == {"train"}:
        command = f"dfine data split {_word(folder)} {_beside(folder, 'ready')} --val 0.2"
        return f"`{command}` makes one out of a fifth of train; then give ready."
    if set(found) == {"train"} and not there:
        return how_to_divide(*(folder / path for path in found["train"]))
    if split in found:
        named = {name: {"annotations": a, "images": i} for name, (a, i) in found.items()}
        return (
            f"The files seem to be there, elsewhere: save this as {folder / 'data.json'} and give that as the data: "
            + (json.dumps(named) + ".")
        )
    files = [*folder.glob("*.json"), *folder.glob("*/*.json")]
    kind = _other_format(folder)
    if kind is not None and not (kind == "coco" and len(files) == 1):
        return f"It looks like {_FORMATS[kind]}: `{_convert(folder, kind)}`, then give my_set."
    inside = next((path.parent.parent for path in sorted(folder.glob("*/annotations/instances_*.json"))), None)
    if inside is not None:
        return f"Did you mean {inside}?"
    if len(files) == 1:
        return f"If {files[0]} holds the boxes of all images: " + how_to_divide(files[0], folder)
    return (
        "Rename or link the files to one of the two layouts, or name them in a JSON file and give that as the data: "
        f'{{"{split}": {{"annotations": "path/to/{split}.json", "images": "path/to/images"}}}}.'
    )


def how_to_use_one_file(file: Path) -> str:
    """How one annotation file, given in place of a data folder, is used."""
    return (
        f"{how_to_divide(file, file.parent)} Where there is a val file too, name both in a JSON file: "
        '{"train": {"annotations": "a.json", "images": "images"}, "val": {...}}.'
    )


def how_to_divide(file: Path, folder: Path) -> str:
    """What makes a data folder of one annotation file and images that lie somewhere in `folder`, in words."""
    if folder.name == "annotations" and not any(_folders_of_images(folder)):
        folder = folder.parent
    places = list(islice(_folders_of_images(folder), 2))
    images = _word(places[0]) if len(places) == 1 else "FOLDER_OF_IMAGES"
    command = f"dfine data split {_word(file)} {_beside(folder, 'ready')} --images {images} --val 0.2"
    return f"`{command}` makes train and val of it; give ready."


def _folders_of_images(folder: Path, levels: int = 3) -> Iterator[Path]:
    """Folders that hold images themselves, not deeper than a few levels."""
    if _holds_images(folder):
        yield folder
    if levels:
        for place in sorted(folder.glob("*/")):
            if not place.name.startswith("."):
                yield from _folders_of_images(place, levels - 1)


def _holds_images(folder: Path) -> bool:
    return any(is_image_name(path) for path in folder.iterdir())


def _word(path: Path) -> str:
    """As it is typed in a shell: in quotes where it has blanks."""
    return shlex.quote(str(path))


def _elsewhere(folder: Path, split: str) -> tuple[str, str] | None:
    for name in _NAMES[split]:
        annotations = next((p for p in (t.format(name) for t in _ANNOTATIONS) if (folder / p).is_file()), None)
        images = next((p for p in (t.format(name) for t in _IMAGES) if (folder / p).is_dir()), None)
        if annotations and images:
            return annotations, images
    return None


def _convert(folder: Path, kind: str) -> str:
    """The command that converts it."""
    command = f"dfine data convert {_word(folder)} {_beside(folder, 'my_set')} --from {kind}"
    if kind == "yolo" and not any(next(folder.glob(pattern), None) for pattern in _CLASS_LISTS):
        command += " --categories CLASS,CLASS"
    return command


def _beside(folder: Path, name: str) -> str:
    """The name of a new folder, beside the source where the working directory lies in it."""
    source = folder.resolve()
    return _word(source.parent / name) if Path.cwd().is_relative_to(source) else name


def _other_format(folder: Path) -> str | None:
    """Which format the files are in, by their names and the first kilobytes of some of them; a key of `_FORMATS`."""
    for place in (folder / "labels", *sorted(folder.glob("*/labels"))):
        if place.is_dir() and any(path.suffix == ".txt" for path in _some_files(place)):
            return "yolo"
    if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        return "voc"
    seen: dict[str, int] = {}
    beside: set[Path] = set()
    for path in _some_files(folder):
        ending = path.suffix.lower()
        if ending == ".odgt":
            return "crowdhuman"
        if ending in (".json", ".xml", ".csv") and seen.setdefault(ending, 0) < _MOST_READ:
            seen[ending] += 1
            if (kind := _kind_of(path)) is not None:
                return kind
        elif ending == ".txt":
            beside.add(path.with_suffix(""))
    lists = {folder / name for name in ("data.yaml", "obj.data", "obj.names", "classes.txt")}
    if beside and any(path.is_file() for path in lists):
        return "yolo"
    images = (path.with_suffix("") for path in _some_files(folder) if is_image_name(path))
    return "yolo" if any(path in beside for path in images) else None


def _some_files(folder: Path) -> Iterator[Path]:
    """Files of a folder and those below it, the first of each folder."""
    for place, folders, names in islice(os.walk(folder), _MOST_FOLDERS):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names)[:_MOST_FILES] if not name.startswith("."))


def _kind_of(file: Path) -> str | None:
    """What an annotation file is, by its beginning."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD).decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    except OSError:
        return None
    if file.suffix.lower() == ".xml":
        return "cvat" if "<annotations" in head else "voc" if "<annotation" in head else None
    if file.suffix.lower() == ".csv":
        fields = {field.strip('" \r') for field in re.split("[,;\t]", head.partition("\n")[0])}
        if {"ImageID", "LabelName"} <= fields:
            return "openimages"
        return "csv" if len({field.lower() for field in fields} & _COLUMNS) >= 3 else None
    if file.name.startswith("zhiyuan_objv2_"):
        return "objects365"
    if '"shapes"' in head and ('"imagePath"' in head or '"points"' in head):
        return "labelme"
    if head.startswith("["):
        return "createml" if '"coordinates"' in head or '"annotations"' in head else None
    keys = ("images", "annotations", "categories", "file_name")
    return "coco" if sum(f'"{key}"' in head for key in keys) >= 2 else None


HINTS: dict[str, Callable[..., str]] = {"another_layout": how_to_use, "one_annotation_file": how_to_use_one_file}


def with_hint(error: DfineError) -> str:
    """The message of an error of `find_split`, followed by how to use what is there."""
    return f"{error}. {HINTS[error.remedy](**error.values)}" if error.remedy in HINTS else str(error)
