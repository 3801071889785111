"""A repaired copy of a data folder: new annotation files, the images linked. What was done is listed with it.

The copy has the layout `annotations/instances_SPLIT.json`, `images/SPLIT/`, one link an image, and `repairs.json`.
Nothing of the input is written to. What is dropped is what `dfine data convert` leaves out, and what the doctor alone
can see: damage inside of an image, boxes that are written in another way.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.box_edges import SMALLEST
from data_tools.convert.new_folder import bring, new_folder
from data_tools.convert.writing import TINY
from data_tools.doctor.category_repairs import followed, kept_categories
from data_tools.doctor.diagnosis import Diagnosis
from data_tools.doctor.finding import ERROR
from data_tools.doctor.images import DROPPED
from data_tools.doctor.reading import Split
from data_tools.doctor.repair_log import RepairLog, harmless, plain_record
from dfine_lib.data.coco_columns import is_set
from dfine_lib.data.images import DataError

_COPY = "duplicate_in_both_splits"
_IMAGES_DROPPED = (*DROPPED, "file_name_missing", "file_name_leaves_folder",
                   _COPY)  # fmt: skip
_BOXES_DROPPED = ("box_malformed", "box_not_finite", "box_negative_side", "box_no_area", "box_outside",
                  "annotation_orphan", "category_unknown", "box_repeated")  # fmt: skip
_CONVERTED = ("boxes_as_corners", "boxes_as_centres", "boxes_as_fractions", "boxes_axes_swapped")
_SIZES = ("image_size_differs", "image_size_swapped", "image_exif_swapped")


@dataclass(frozen=True)
class Repairs:
    """What was done to a copy."""

    out: Path
    counts: dict[str, int]  # name of the check and what was done → how often
    done: tuple[str, ...]  # every single repair, by name
    left: tuple[str, ...]  # names of errors that no copy repairs


def repair(diagnosis: Diagnosis, out: Path | str) -> Repairs:
    """Write a repaired copy; the images are links to where they lie.

    Raises:
        DataError: `out` exists, lies inside the input's folders, there is nothing left to write, or it is not known
            which boxes belong to the upright image (`Diagnosis.doubt`).
        OSError: `out` cannot be written.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise DataError(f"{out}: exists already. Give a new folder: a copy is never mixed with old files.")
    source = diagnosis.data.resolve()
    folders = {one.resolve() for split in diagnosis.splits for one in (split.image_folder, split.annotation_file.parent)
               if one is not None} | ({source} if source.is_dir() else set())  # fmt: skip
    if folders & {out.resolve(), *out.resolve().parents}:
        raise DataError(f"{out}: lies inside the data folder, which is never written to. Give another place.")
    if not diagnosis.splits:
        raise DataError(f"{diagnosis.data}: no annotation file could be read, so there is nothing to repair.")
    if diagnosis.doubt:
        raise DataError(
            f"{diagnosis.data}: {diagnosis.doubt}. Look at one of them, and say --exif upright or --exif stored."
        )
    log = RepairLog()
    train = next((one for one in diagnosis.splits if one.name == "train"), None)
    categories, place = kept_categories(train or diagnosis.splits[0], log)
    places = {one.name: place if one is train or train is None else followed(one, train, categories, log)
              for one in diagnosis.splits}  # fmt: skip
    with new_folder(out, diagnosis.data) as partial:
        (partial / "annotations").mkdir()
        for split in diagnosis.splits:
            content, files = _SplitRepair(diagnosis, split, log).repaired(categories, places[split.name])
            _link(files, partial / "images" / split.name)
            text = json.dumps(content, separators=(",", ":"), allow_nan=False)
            (partial / "annotations" / f"instances_{split.name}.json").write_bytes(text.encode())
        left = sorted({one.name for one in diagnosis.of(ERROR) if not one.repair} | log.left)
        report = {"data": str(source), "counts": dict(log.counts), "not_mended": left, "done": log.done}
        (partial / "repairs.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return Repairs(out, dict(log.counts), tuple(log.done), tuple(left))


def _link(files: dict[str, Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, path in files.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(path.resolve())
        except FileExistsError:
            raise
        except OSError:  # a system without links
            bring(path, link, "copy")


class _SplitRepair:
    """One split, on its way to a copy."""

    def __init__(self, diagnosis: Diagnosis, split: Split, log: RepairLog) -> None:
        self.split, self.log = split, log
        self._found = {
            one.name: set(one.rows.tolist()) for one in diagnosis.findings if one.split == split.name and len(one.rows)
        }
        self.looked = diagnosis.looked_at_images and split.image_folder is not None

    def rows(self, name: str) -> set[int]:
        return self._found.get(name, set())

    def repaired(
        self, categories: list[dict[str, Any]], places: dict[int, int]
    ) -> tuple[dict[str, Any], dict[str, Path]]:
        """The new content, and the image of each file name."""
        split = self.split
        if split.is_panoptic:
            self.log.note("panoptic", "segments taken as annotations", split.name)
        for table, rows in split.not_objects.items():
            self.log.note("record_not_object", f"dropped {len(rows)}", f"{split.name}: {table}")
        for name in ("reference_text", "crowd_invalid", "annotation_id_text"):
            for row in sorted(self.rows(name)):
                self.log.note(name, "written as a whole number", split.annotation_words(row))
        images, number_of, files = self._images()
        annotations = self._annotations(categories, places, images, number_of)
        content = {key: split.content[key] for key in ("info", "licenses") if harmless(split.content.get(key))}
        return content | {
            "images": list(images.values()), "annotations": annotations, "categories": categories
        }, files  # fmt: skip

    def _images(self) -> tuple[dict[int, dict[str, Any]], dict[int, int], dict[str, Path]]:
        split, log = self.split, self.log
        numbers = [key for key in split.image_keys if isinstance(key, int)]
        following = max(numbers, default=0) + 1
        kept: dict[int, dict[str, Any]] = {}
        stands_for: dict[int, int] = {}  # image of the file → image of the copy
        by_name: dict[str, int] = {}
        files: dict[str, Path] = {}
        unclear = self._unclear_ids()
        renamed = self.rows("file_name_leaves_folder") & split.found.keys()
        self._found["file_name_leaves_folder"] = self.rows("file_name_leaves_folder") - renamed
        dropped = set().union(*(self.rows(name) for name in _IMAGES_DROPPED))
        if self.rows(_COPY) and len(dropped) == len(split.images):  # all are copies: nothing else would be left
            self._found[_COPY] = set()
            log.left.add(_COPY)
        for i, record in enumerate(split.images):
            why = next((name for name in _IMAGES_DROPPED if i in self.rows(name)), None)
            width, height = split.sizes_wh[i]
            if why is None and not (math.isfinite(width) and math.isfinite(height) and width % 1 == height % 1 == 0):
                why = "image_size_invalid"
            if why is None and i in split.placements and split.placements[i] is None:
                why = next((name for name in _SIZES if i in self.rows(name)), "image_size_differs")
            if why is None and (split.image_keys[i] in unclear or i in self.rows("image_id_repeated")):
                why = "image_id_repeated"
            if why is not None:
                log.note(why, "dropped the image", split.image_words(i))
                continue
            name = split.file_names[i]
            plain = posixpath.normpath(name)
            if plain in by_name:
                stands_for[i] = by_name[plain]
                log.note("file_name_repeated", "merged", split.image_words(i))
                continue
            key = split.image_keys[i]
            if isinstance(key, int) and i in self.rows("image_id_text"):
                log.note("image_id_text", "written as a whole number", split.image_words(i))
            if not isinstance(key, int):
                key, following = following, following + 1
                log.note("image_id_text" if split.image_keys[i] else "image_id_invalid", f"now {key}",
                         split.image_words(i))  # fmt: skip
            size = [int(width), int(height)]
            if size != [record.get("width"), record.get("height")]:
                log.note("image size", f"now {size[0]} x {size[1]}", split.image_words(i))
            if i in split.found:
                log.note("file_name_leaves_folder" if i in renamed else "image_elsewhere", f"now {name}",
                         split.image_words(i))  # fmt: skip
            by_name[plain] = stands_for[i] = i
            kept[i] = {**plain_record(record), "id": key, "file_name": name, "width": size[0], "height": size[1]}
            if split.image_folder is not None and (path := split.path(i)).is_file():
                files[name] = path
        return kept, stands_for, files

    def _unclear_ids(self) -> set[int | str]:
        """Ids of several images with several files: it is not known which of them a box belongs to."""
        split = self.split
        names: dict[int | str, set[str | None]] = {split.image_keys[i]: set() for i in self.rows("image_id_repeated")}
        for key, name in zip(split.image_keys, split.file_names, strict=True):
            if key in names:
                names[key].add(name)
        return {key for key, own in names.items() if len(own) > 1}

    def _annotations(
        self,
        categories: list[dict[str, Any]],
        places: dict[int, int],
        images: dict[int, dict[str, Any]],
        stands_for: dict[int, int],
    ) -> list[dict[str, Any]]:
        split, log = self.split, self.log
        identities = [record.get("id") for record in split.annotations]
        sound = set(map(type, identities)) <= {int} and len(set(identities)) == len(identities)
        if not sound:
            log.note("annotation ids", "numbered anew", split.name)
        kept: list[dict[str, Any]] = []
        for row, record in enumerate(split.annotations):
            why = next((name for name in _BOXES_DROPPED if row in self.rows(name)), None)
            image, category = int(split.image_of[row]), places.get(int(split.category_of[row]))
            if why is None and category is None:
                why = "category_only_in_val" if split.name == "val" else "category_id_invalid"
            if why is None and image not in stands_for:
                continue  # reported with its image
            box = None if why else self._box(row, images[stands_for[image]])
            if why is None and box is None:
                why = "box_outside"
            if why is not None:
                log.note(why, "dropped the annotation", split.annotation_words(row))
                continue
            for name in (*_CONVERTED, "box_text", "box_from_outline"):
                if row in self.rows(name):
                    log.note(name, "converted", split.annotation_words(row))
            moved = box != record.get("bbox")
            repaired = plain_record(record)
            if moved and row not in self.rows("box_from_outline"):  # they lie where the box lay
                repaired.pop("segmentation", None), repaired.pop("keypoints", None)
            repaired |= {
                "id": identities[row] if sound else len(kept) + 1,
                "image_id": images[stands_for[image]]["id"],
                "category_id": categories[category]["id"],
                "bbox": box,
                "iscrowd": int(is_set(record.get("iscrowd"))),
            }
            no_area = "area" in record and not np.isfinite(split.areas[row])
            if moved or no_area or row in self.rows("area_differs"):
                own = split.areas[row] if self._area_is_right(row) else math.inf
                repaired["area"] = round(float(min(own, box[2] * box[3])), 4)
            for name in _SIZES:
                if moved and image in split.placements and image in self.rows(name):
                    log.note(name, "box follows its image", split.annotation_words(row))
            for name in ("area_differs", "area_invalid"):
                if row not in self.rows(name):
                    continue
                log.note(name, "now width x height", split.annotation_words(row))
            kept.append(repaired)
        return kept

    def _area_is_right(self, row: int) -> bool:
        """Whether the area of the file, scaled with its box, is that of the object."""
        unsound = ("area_differs", "area_invalid", "area_missing", *_CONVERTED)
        return bool(np.isfinite(self.split.areas[row])) and not any(row in self.rows(name) for name in unsound)

    def _box(self, row: int, image: dict[str, Any]) -> list[float] | None:
        """The box, cut off at the edges of its image; None where nothing is left of it."""
        split = self.split
        left, top, width, height = (float(number) for number in split.boxes_xywh[row])
        corners = np.array([left, top, left + width, top + height])
        inside = corners.clip(0, [image["width"], image["height"]] * 2)
        if (inside[2:] - inside[:2] < SMALLEST).any():
            return None
        moved = np.abs(inside - corners).max()
        if moved > TINY:
            self.log.note("box_sticks_out", "cut off at the edge", split.annotation_words(row))
        elif moved < 1e-9 and split.annotations[row].get("bbox") == [left, top, width, height]:
            return split.annotations[row]["bbox"]
        box = [*inside[:2], *(inside[2:] - inside[:2])]
        return [round(float(number), 6) for number in box]
