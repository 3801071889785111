"""What a data folder holds that is laid out in another way, and how to use it all the same."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from dfine_lib.data.image_formats import is_image_name

_NAMES = {"train": ("train",), "val": ("val", "valid", "validation")}
_ANNOTATIONS = (
    "annotations/instances_{0}2017.json", "annotations/instances_{0}.json", "annotations/{0}.json",
    "{0}/_annotations.coco.json", "{0}/annotations.json", "{0}.json",
)  # fmt: skip
_IMAGES = ("images/{0}2017", "images/{0}", "{0}2017", "{0}", "images")


def listing(folder: Path, most: int = 12) -> str:
    """What lies in a folder, in words."""
    if not folder.is_dir():
        return "but there is no such folder"
    names = sorted(str(path.relative_to(folder)) + "/" * path.is_dir() for path in folder.glob("*"))
    names += sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.json"))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"found {', '.join(names[:most])}{more}" if names else "but the folder is empty"


def how_to_use(folder: Path, split: str) -> str:
    """How a folder of another layout is used: its files named, its format converted, or the folder inside it given."""
    if not folder.is_dir():
        return "Is the path right?"
    found = {name: place for name in _NAMES if (place := _elsewhere(folder, name))}
    if split in found:
        named = {name: {"annotations": a, "images": i} for name, (a, i) in found.items()}
        return (
            f"The files seem to be there, elsewhere: save this as {folder / 'data.json'} and give that as the data: "
            + (json.dumps(named) + ".")
        )
    there = {n for n in _NAMES for year in ("", 2017) if (folder / f"annotations/instances_{n}{year}.json").is_file()}
    if split == "val" and there == {"train"}:
        return f"`dfine data split {_word(folder)} ready --val 0.2` makes one out of a fifth of train; then give ready."
    kind = _other_format(folder)
    if kind:
        return f"It looks like {kind}: `dfine data convert {_word(folder)} my_set --from {kind}`, then give my_set."
    inside = next((path.parent.parent for path in sorted(folder.glob("*/annotations/instances_*.json"))), None)
    if inside is not None:
        return f"Did you mean {inside}?"
    files = [*folder.glob("*.json"), *folder.glob("*/*.json")]
    if len(files) == 1:
        return f"If {files[0]} holds the boxes of all pictures: " + how_to_divide(files[0], folder)
    return (
        "Rename or link the files to one of the two layouts, or name them in a JSON file and give that as the data: "
        f'{{"{split}": {{"annotations": "path/to/{split}.json", "images": "path/to/pictures"}}}}.'
    )


def how_to_divide(file: Path, folder: Path) -> str:
    """What makes a data folder of one annotation file and pictures that lie somewhere in `folder`, in words."""
    places = [place for place in (folder, *sorted(folder.glob("*/"))) if place.is_dir() and _holds_pictures(place)]
    images = _word(places[0]) if len(places) == 1 else "FOLDER_OF_PICTURES"
    return f"`dfine data split {_word(file)} ready --images {images} --val 0.2` makes train and val of it; give ready."


def _holds_pictures(folder: Path) -> bool:
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


def _other_format(folder: Path) -> str | None:
    if (folder / "labels").is_dir() or any(folder.glob("*/labels")):
        return "yolo"
    if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        return "voc"
    return "crowdhuman" if any(folder.glob("*.odgt")) else None
