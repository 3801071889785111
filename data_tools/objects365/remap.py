"""D-FINE's division of Objects365 v2: the first 5,000 validation images stay, the rest joins training.

Records keep their text: nothing is rounded, and only records that change are written anew.

Source: the authors' preparation (`tools/dataset/remap_obj365.py`), whose membership tests in lists take time that
grows with the square of the number of images.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from data_tools.convert.records import clean_name, files_below, inside
from data_tools.image_formats import image_suffixes
from data_tools.objects365.lists import place, read_lists, whole_number, write_lists
from data_tools.objects365.places import (
    annotations_of,
    finish,
    finished,
    link_image,
    only_one,
    place_of,
    resumable,
    work_of,
)
from dfine_lib.errors import DataError

KEPT_VALIDATION_IMAGES = 5000
MOVED = "images_from_val"


@dataclass(frozen=True)
class Remapped:
    """Counts."""

    out: Path
    images: dict[str, int]  # by split
    boxes: dict[str, int]
    moved_images: int  # from validation to training
    moved_boxes: int
    renumbered_images: int  # ids of moved images that training had already
    renumbered_boxes: int
    lost_boxes: int  # of validation, whose image is not listed
    linked: int  # images
    missing: list[str]  # images of moved and kept validation images that are not there

    def __str__(self) -> str:
        parts = [
            f"objects365 remap: val {self.images['val']:,} images, {self.boxes['val']:,} boxes; train "
            f"{self.images['train']:,} images, {self.boxes['train']:,} boxes, of them {self.moved_images:,} and "
            f"{self.moved_boxes:,} from validation; in {self.out}"
        ]
        if self.renumbered_images or self.renumbered_boxes:
            parts.append(
                f"{self.renumbered_images:,} image ids and {self.renumbered_boxes:,} box ids from validation were in "
                "use in training and got new ones"
            )
        if self.lost_boxes:
            parts.append(f"{self.lost_boxes:,} validation boxes left out, their image is not listed")
        if self.missing:
            parts.append(f"{len(self.missing):,} validation images are missing (kept in the lists): "
                         f"{', '.join(self.missing[:3])}{', …' if len(self.missing) > 3 else ''}")  # fmt: skip
        parts.append(f"{self.linked:,} images linked" if self.linked else "annotations alone, no images found")
        return "; ".join(parts)


def remap(
    source: Path | str, out: Path | str, *, keep: int = KEPT_VALIDATION_IMAGES, image_files: str = "link",
    follow_links: bool = False, progress: bool = True,
) -> Remapped:  # fmt: skip
    """Divide Objects365 v2 anew, as D-FINE's published checkpoints were pretrained on it.

    `source/{train,val}/zhiyuan_objv2_{train,val}.json` become `out/{train,val}/new_zhiyuan_objv2_{train,val}.json`;
    `file_name` of a moved image begins with `images_from_val/`. `out/objects365.json` names both for `dfine train`.
    Time grows with the size of the files, memory holds the ids: 8 to 16 bytes an image and box.
    Stopped at any moment, the same call resumes: a file that is whole is not written again.

    Args:
        source: folder with `train/` and `val/`; never changed.
        out: folder to make, or to go on with.
        keep: validation images that stay.
        image_files: "link" (hard links, copies where the disk has none), "copy" or "none".
        follow_links: also take images that are links out of `source`.
        progress: show bars.

    Returns:
        Counts. An id that would occur twice in training is renumbered, which the authors' program does not do.

    Raises:
        DataError: a file is missing or not what it should be (file, list, record, and the way out); the two files do
            not have the same categories; `out` was begun with other files or settings, or another process is at it.
    """
    source, out = Path(source), Path(out)
    files = {split: annotations_of(source, split) for split in ("train", "val")}
    work = work_of(files, what="remap", keep=keep, image_files=image_files)
    with only_one(source, out):
        if (done := finished(out, work)) is not None:
            return Remapped(out, **done)
        with resumable(out, work):
            return _remap(source, out, files, work, follow_links, progress)


def _remap(
    source: Path, out: Path, files: dict[str, Path], work: dict[str, Any], follow_links: bool, progress: bool
) -> Remapped:
    val, train = (_Ids(files[split], progress) for split in ("val", "train"))
    for own, other in ((val, train), (train, val)):
        for i, name in own.categories.items():
            if other.categories.get(i) != name:
                raise DataError(
                    f"{train.file}: category {i} is {train.categories.get(i)!r}, in {val.file} "
                    f"{val.categories.get(i)!r}. Are the two files of the same version of Objects365?"
                )
    division = _Division(val, train, work["keep"])
    for split, records in (("val", division.val()), ("train", division.train())):
        target = out / split / f"new_zhiyuan_objv2_{split}.json"
        if not target.exists():
            write_lists(target, records)
    linked, missing = _bring_images(source, out, division, work["image_files"], follow_links, progress)
    moved_images, moved_boxes = int((~division.stays).sum()), int((division.side_of_boxes == 1).sum())
    result = Remapped(
        out, {"val": int(division.stays.sum()), "train": len(train.images) + moved_images},
        {"val": int((division.side_of_boxes == 0).sum()), "train": len(train.boxes) + moved_boxes},
        moved_images, moved_boxes, len(division.new_ids["images"]), len(division.new_ids["annotations"]),
        int((division.side_of_boxes < 0).sum()), linked, missing,
    )  # fmt: skip
    names = {split: f"new_zhiyuan_objv2_{split}.json" for split in files}
    finish(out, names, work, {key: value for key, value in vars(result).items() if key != "out"})
    return result


class _Ids:
    """The ids of one file, in its order, and its categories."""

    def __init__(self, file: Path, progress: bool) -> None:
        self.file = file
        found = {"images": array("q"), "annotations": array("q")}
        owners = array("q")
        self.categories: dict[int, str] = {}
        for key, i, record, _ in read_lists(file, progress):
            if i < 0:
                continue
            identity = whole_number(file, key, i, record, "id")
            if key == "categories":
                self.categories[identity] = str(record.get("name")).strip()
                continue
            found[key].append(identity)
            if key == "annotations":
                owners.append(whole_number(file, key, i, record, "image_id"))
        self.images, self.boxes, self.image_of_boxes = (
            np.frombuffer(ids, np.int64) for ids in (found["images"], found["annotations"], owners)
        )
        known, counts = np.unique(self.images, return_counts=True)
        if (counts > 1).any():
            raise DataError(
                f"{file}: a second image with id {known[counts > 1][0]}. Give every image an id of its own."
            )


class _Division:
    """Which validation records stay and which join training, under which ids, and the records of both new files."""

    def __init__(self, val: _Ids, train: _Ids, keep: int) -> None:
        self.files = {"val": val.file, "train": train.file}
        self.stays = np.arange(len(val.images)) < keep
        side = {identity: int(i >= keep) for i, identity in enumerate(val.images.tolist())}
        # 0 stays in validation, 1 joins training, -1 belongs to no image
        self.side_of_boxes = np.array([side.get(owner, -1) for owner in val.image_of_boxes.tolist()], np.int8)
        self.new_ids = {  # old → new, of records that join training under an id that training has already
            "images": _renumbered(val.images, val.images[~self.stays], train.images),
            "annotations": _renumbered(val.boxes, val.boxes[self.side_of_boxes == 1], train.boxes),
        }

    def val(self) -> Iterator[tuple[str, str]]:
        for key, i, _, text in read_lists(self.files["val"]):
            if i >= 0 and (key == "categories" or self._side(key, i) == 0):
                yield key, text

    def train(self) -> Iterator[tuple[str, str]]:
        for key, i, _, text in read_lists(self.files["train"]):
            if i <= 0 and key != "categories":
                yield from ((key, moved) for moved in self._moved(key))
            if i >= 0:
                yield key, text

    def _side(self, key: str, i: int) -> int:
        return int(not self.stays[i]) if key == "images" else int(self.side_of_boxes[i])

    def _moved(self, wanted: str) -> Iterator[str]:
        """The texts of one list's records that join training."""
        images, boxes = self.new_ids["images"], self.new_ids["annotations"]
        for key, i, record, text in read_lists(self.files["val"]):
            if key != wanted or i < 0 or self._side(key, i) != 1:
                continue
            if key == "images":
                name = moved_name(clean_name(record.get("file_name"), place(self.files["val"], key, i, record)))
                yield json.dumps(record | {"file_name": name, "id": images.get(record["id"], record["id"])})
            elif record["id"] in boxes or record["image_id"] in images:
                new = {"id": boxes.get(record["id"], record["id"])}
                yield json.dumps(record | new | {"image_id": images.get(record["image_id"], record["image_id"])})
            else:
                yield text


def _renumbered(own: np.ndarray, moved: np.ndarray, taken: np.ndarray) -> dict[int, int]:
    """New ids for those of `moved` that are in `taken`: above all ids of both files."""
    again = np.unique(moved[np.isin(moved, taken)]).tolist()
    highest = max(int(taken.max(initial=0)), int(own.max(initial=0)))
    return {old: highest + 1 + i for i, old in enumerate(again)}


def moved_name(file_name: str) -> str:
    """`images/v1/patch8/a.jpg` → `images_from_val/v1/patch8/a.jpg`."""
    return f"{MOVED}/{file_name.partition('/')[2] or file_name}"


def _bring_images(
    source: Path, out: Path, division: _Division, how: str, follow_links: bool, progress: bool
) -> tuple[int, list[str]]:
    """Link what there is; the validation images that are not there."""
    if how == "none" or not any(
        next(files_below(source / split, image_suffixes()), None) for split in ("train", "val")
    ):
        return 0, []
    linked, missing = 0, []
    bar = tqdm(desc="linking images", unit="image", leave=False, dynamic_ncols=True, delay=2.0, disable=not progress)
    with bar:
        for path in files_below(source / "train", image_suffixes()):
            inside(path, source, follow_links)
            linked += link_image(path, out / "train" / path.relative_to(source / "train"), how)
            bar.update()
        for key, i, record, _ in read_lists(division.files["val"]):
            if key != "images" or i < 0:
                continue
            name = clean_name(record.get("file_name"), place(division.files["val"], key, i, record))
            target = out / "val" / name if division.stays[i] else out / "train" / moved_name(name)
            path = place_of(source / "val", name)
            if path.is_file():
                inside(path, source, follow_links)
                linked += link_image(path, target, how)
            else:
                missing.append(f"val/{name}")
            bar.update()
    return linked, missing
