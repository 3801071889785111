"""D-FINE's division of Objects365 v2: the first 5,000 validation images stay, the rest joins training.

Records go through as bytes: nothing is rounded, and only records that change are parsed. What is written is a fixed
sequence of pieces of the two files, so a run that was killed goes on at the byte where it stopped.

Source: the authors' preparation (`tools/dataset/remap_obj365.py`), whose membership tests in lists take time that
grows with the square of the number of images.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from data_tools.convert.records import clean_name, files_below, inside
from data_tools.objects365.lists import LargeFile, Records
from data_tools.objects365.places import (
    CACHE,
    annotations_of,
    finish,
    finished,
    link_picture,
    only_one,
    place_of,
    resumable,
    work_of,
)  # fmt: skip
from data_tools.objects365.whole_files import FileInOrder
from dfine_lib.data.image_formats import image_suffixes
from dfine_lib.data.images import DataError

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
    linked: int  # pictures
    missing: list[str]  # pictures of moved and kept validation images that are not there

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
            parts.append(f"{len(self.missing):,} validation pictures are missing (kept in the lists): "
                         f"{', '.join(self.missing[:3])}{', …' if len(self.missing) > 3 else ''}")  # fmt: skip
        parts.append(f"{self.linked:,} pictures linked" if self.linked else "annotations alone, no pictures found")
        return "; ".join(parts)


def remap(
    source: Path | str, out: Path | str, *, keep: int = KEPT_VALIDATION_IMAGES, pictures: str = "link",
    follow_links: bool = False, progress: bool = True,
) -> Remapped:  # fmt: skip
    """Divide Objects365 v2 anew, as D-FINE's published checkpoints were pretrained on it.

    `source/{train,val}/zhiyuan_objv2_{train,val}.json` become `out/{train,val}/new_zhiyuan_objv2_{train,val}.json`;
    `file_name` of a moved image begins with `images_from_val/`. `out/objects365.json` names both for `dfine train`.
    Time grows with the size of the files, memory holds the ids: 8 bytes a training image and box, 24 a validation box.
    Stopped at any moment, the same call goes on.

    Args:
        source: folder with `train/` and `val/`; never changed.
        out: folder to make, or to go on with.
        keep: validation images that stay.
        pictures: "link" (hard links, copies where the disk has none), "copy" or "none".
        follow_links: also take pictures that are links out of `source`.
        progress: show bars.

    Returns:
        Counts. An id that would occur twice in training is renumbered, which the authors' program does not do.

    Raises:
        DataError: a file is missing or not what it should be (file, list, record, and the way out); the two files do
            not have the same categories; `out` was begun with other files or settings, or another process is at it.
    """
    source, out = Path(source), Path(out)
    files = {split: annotations_of(source, split) for split in ("train", "val")}
    work = work_of(files, what="remap", keep=keep, pictures=pictures)
    with only_one(source, out):
        if (done := finished(out, work)) is not None:
            return Remapped(out, **done)
        with resumable(out, work):
            return _remap(source, out, files, work, follow_links, progress)


def _remap(
    source: Path, out: Path, files: dict[str, Path], work: dict[str, Any], follow_links: bool, progress: bool
) -> Remapped:
    val = _Validation(files["val"], work["keep"], progress)
    train = _Training(files["train"], out, val, progress)
    for split, write in (("val", _write_val), ("train", _write_train)):
        target = out / split / f"new_zhiyuan_objv2_{split}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with FileInOrder(target, progress=progress) as file:
                write(file, val, train)
    linked, missing = _bring_pictures(source, out, val, work["pictures"], follow_links, progress)
    moved_images, moved_boxes = int((~val.stays).sum()), int((val.side_of_boxes == 1).sum())
    result = Remapped(
        out, {"val": int(val.stays.sum()), "train": train.counts["images"] + moved_images},
        {"val": int((val.side_of_boxes == 0).sum()), "train": train.counts["annotations"] + moved_boxes},
        moved_images, moved_boxes, len(train.new_image_ids), len(train.new_box_ids),
        int((val.side_of_boxes < 0).sum()), linked, missing,
    )  # fmt: skip
    names = {split: f"new_zhiyuan_objv2_{split}.json" for split in files}
    finish(out, names, work, {key: value for key, value in vars(result).items() if key != "out"})

    return result


class _Validation:
    """The validation file, read once: its ids, and which side every image and box goes to."""

    def __init__(self, file: Path, keep: int, progress: bool):
        self.file, self.large = file, LargeFile(file, progress=progress)
        images, boxes, owners = [], [], []
        self.categories: dict[int, str] = {}
        for records in self.large.records():
            if records.key == "images":
                images.append(records.integers("id"))
            elif records.key == "annotations":
                boxes.append(records.integers("id"))
                owners.append(records.integers("image_id"))
            else:
                self.categories |= _categories(records)
        self.image_ids, self.box_ids, owner = (_joined(parts) for parts in (images, boxes, owners))
        self.stays = np.arange(len(self.image_ids)) < keep
        order = np.argsort(self.image_ids, kind="stable")
        known = self.image_ids[order]
        if (twice := known[1:] == known[:-1]).any():
            raise DataError(f"{file}: a second image with id {known[1:][twice][0]}. Give every image an id of its own.")
        place = np.minimum(np.searchsorted(known, owner), max(len(known) - 1, 0))
        listed = known[place] == owner if len(known) else np.zeros(len(owner), bool)
        # 0 stays in validation, 1 goes to training, -1 belongs to no image
        self.side_of_boxes = np.where(listed, np.where(self.stays[order][place], 0, 1) if len(known) else 0, -1)


class _Training:
    """What must be known of the training file: where its lists lie, and the ids that moved records must not take.

    Kept in `out/.remap.npz`, so that a run that goes on does not read 6 GB again.
    """

    def __init__(self, file: Path, out: Path, val: _Validation, progress: bool):
        self.file = file
        cache = out / CACHE
        if cache.exists():
            with np.load(cache) as found:
                self._set(**{name: found[name] for name in found.files})
            return
        large = LargeFile(file, progress=progress)
        ids: dict[str, list[np.ndarray]] = {"images": [], "annotations": []}
        categories: dict[int, str] = {}
        with ThreadPoolExecutor(1) as beside:  # numpy lets the next records be found meanwhile
            waiting: deque[tuple[str, Future[np.ndarray]]] = deque()
            for records in large.records():
                if records.key == "categories":
                    categories |= _categories(records)
                    continue
                waiting.append((records.key, beside.submit(records.integers, "id")))
                if len(waiting) > 4:
                    key, numbers = waiting.popleft()
                    ids[key].append(numbers.result())
            for key, numbers in waiting:
                ids[key].append(numbers.result())
        if differing := [
            i for i in categories.keys() | val.categories.keys() if categories.get(i) != val.categories.get(i)
        ]:
            i = min(differing)
            raise DataError(
                f"{file}: category {i} is {categories.get(i)!r}, in {val.file} {val.categories.get(i)!r}. Are the two "
                "files of the same version of Objects365?"
            )
        moved = {"images": val.image_ids[~val.stays], "annotations": val.box_ids[val.side_of_boxes == 1]}
        own = {"images": val.image_ids, "annotations": val.box_ids}
        made = {}
        for key, parts in ids.items():
            there = _joined(parts)
            if key == "images" and len(np.unique(there)) < len(there):
                found, counts = np.unique(there, return_counts=True)
                raise DataError(
                    f"{file}: a second image with id {found[counts > 1][0]}. Give every image an id of its own."
                )
            taken = np.unique(moved[key][np.isin(moved[key], there)])
            highest = max(int(there.max(initial=0)), int(own[key].max(initial=0)))
            made[key] = np.stack([taken, highest + 1 + np.arange(len(taken))])
        spans = np.array([large.spans[key] for key in ("images", "annotations", "categories")])
        counts = np.array([large.counts[key] for key in ("images", "annotations")])
        part = cache.with_name(".remap.part.npz")
        np.savez(part, spans=spans, counts=counts, images=made["images"], boxes=made["annotations"])
        os.replace(part, cache)
        self._set(spans, counts, made["images"], made["annotations"])

    def _set(self, spans: np.ndarray, counts: np.ndarray, images: np.ndarray, boxes: np.ndarray) -> None:
        self.spans = dict(zip(("images", "annotations", "categories"), map(tuple, spans.tolist())))
        self.counts = dict(zip(("images", "annotations"), counts.tolist()))
        self.new_image_ids = dict(images.T.tolist())  # old → new, of moved records
        self.new_box_ids = dict(boxes.T.tolist())


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _categories(records: Records) -> dict[int, str]:
    found = [records.parsed(i) for i in range(len(records))]
    return dict(zip(records.integers("id").tolist(), (str(category.get("name")).strip() for category in found)))


# ---- the two files ---------------------------------------------------------------------------------------------------


def _write_val(file: FileInOrder, val: _Validation, train: _Training) -> None:
    file.write(b'{"images": [')
    file.write_list(_as_they_are(val, "images", val.stays))
    file.write(b'], "annotations": [')
    file.write_list(_as_they_are(val, "annotations", val.side_of_boxes == 0))
    file.write(b'], "categories": [')
    file.copy(val.file, *val.large.spans["categories"])
    file.write(b"]}\n")


def _write_train(file: FileInOrder, val: _Validation, train: _Training) -> None:
    file.write(b'{"images": [')
    file.write_list(_moved_images(val, train))
    if (~val.stays).any() and train.counts["images"]:
        file.write(b", ")
    file.copy(train.file, *train.spans["images"])
    file.write(b'], "annotations": [')
    file.write_list(_moved_boxes(val, train))
    if (val.side_of_boxes == 1).any() and train.counts["annotations"]:
        file.write(b", ")
    file.copy(train.file, *train.spans["annotations"])
    file.write(b'], "categories": [')
    file.copy(train.file, *train.spans["categories"])
    file.write(b"]}\n")


def _as_they_are(val: _Validation, key: str, wanted: np.ndarray) -> Iterator[bytes]:
    """Runs of neighbouring records that are wanted, as they stand in the file."""
    for records in val.large.again(key):
        yield from _runs(records, wanted[records.first : records.first + len(records)])


def _runs(records: Records, wanted: np.ndarray) -> Iterator[bytes]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted.astype(np.int8), [0]])))
    for a, b in zip(records.starts[edges[0::2]].tolist(), records.ends[edges[1::2] - 1].tolist()):
        yield records.data[a:b]


def _moved_images(val: _Validation, train: _Training) -> Iterator[bytes]:
    for records in val.large.again("images"):
        for i in np.flatnonzero(~val.stays[records.first : records.first + len(records)]).tolist():
            record = records.parsed(i)
            record["file_name"] = moved_name(clean_name(record.get("file_name"), records.place_and_id(i)))
            record["id"] = train.new_image_ids.get(record["id"], record["id"])
            yield json.dumps(record).encode()


def moved_name(file_name: str) -> str:
    """`images/v1/patch8/a.jpg` → `images_from_val/v1/patch8/a.jpg`."""
    return f"{MOVED}/{file_name.partition('/')[2] or file_name}"


def _moved_boxes(val: _Validation, train: _Training) -> Iterator[bytes]:
    same = not train.new_image_ids and not train.new_box_ids
    for records in val.large.again("annotations"):
        wanted = val.side_of_boxes[records.first : records.first + len(records)] == 1
        if same:
            yield from _runs(records, wanted)
            continue
        for i in np.flatnonzero(wanted).tolist():
            record = records.parsed(i)
            record["id"] = train.new_box_ids.get(record["id"], record["id"])
            record["image_id"] = train.new_image_ids.get(record["image_id"], record["image_id"])
            yield json.dumps(record).encode()


# ---- pictures --------------------------------------------------------------------------------------------------------


def _bring_pictures(
    source: Path, out: Path, val: _Validation, how: str, follow_links: bool, progress: bool
) -> tuple[int, list[str]]:
    """Link what there is; the validation pictures that are not there."""
    if how == "none" or not any(
        next(files_below(source / split, image_suffixes()), None) for split in ("train", "val")
    ):
        return 0, []
    linked, missing = 0, []
    bar = tqdm(desc="linking pictures", unit="image", leave=False, dynamic_ncols=True, delay=2.0, disable=not progress)
    with bar:
        for path in files_below(source / "train", image_suffixes()):
            inside(path, source, follow_links)
            linked += link_picture(path, out / "train" / path.relative_to(source / "train"), how)
            bar.update()
        for records in val.large.again("images"):
            for i in range(len(records)):
                name = clean_name(records.parsed(i).get("file_name"), records.place_and_id(i))
                stays = val.stays[records.first + i]
                target = out / "val" / name if stays else out / "train" / moved_name(name)
                path = place_of(source / "val", name)
                if path.is_file():
                    inside(path, source, follow_links)
                    linked += link_picture(path, target, how)
                else:
                    missing.append(f"val/{name}")
                bar.update()
    return linked, missing
