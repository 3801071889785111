"""COCO JSON to packed arrays: what is in a data folder, checked before anything is trained on it.

A fault in a file is a `DataError` that says what is wrong, where (file, image id, annotation id, key) and the way out.
Everything is kept in a handful of numpy arrays: worker processes share their memory instead of copying it, which a
list of dicts does as soon as its reference counts are touched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dfine_lib.data.coco_json import integers, is_set, read_json, records_of, short, unique, where
from dfine_lib.data.images import check_images
from dfine_lib.data.plausible import written_as_fractions
from dfine_lib.errors import DataError

__all__ = ["CocoIndex", "DataError", "check_images", "find_split", "read_coco"]

logger = logging.getLogger(__name__)


def find_split(data: Path | str, split: Literal["train", "val", "test"]) -> tuple[Path, Path]:
    """Annotation file and image folder of one split of a data folder.

    Two layouts are known: `annotations/instances_{split}.json` with `images/{split}/`, and that of COCO 2017,
    `annotations/instances_{split}2017.json` with `{split}2017/`. Any other is told by a small JSON file in place of
    the folder, paths relative to it: `{"train": {"annotations": "a.json", "images": "pictures"}, "val": {...}}`.

    Raises:
        DataError: neither layout is there, the message lists both and what the folder holds; or the JSON file does
            not name both paths of the split, or one of them is not there.
    """
    data = Path(data)
    if data.suffix == ".json":
        return _named_split(data, split)
    layouts = [
        (data / "annotations" / f"instances_{split}.json", data / "images" / split),
        (data / "annotations" / f"instances_{split}2017.json", data / f"{split}2017"),
    ]
    for annotation_file, image_folder in layouts:
        if annotation_file.is_file() and image_folder.is_dir():
            return annotation_file, image_folder
    expected = " or ".join(f"{file.relative_to(data)} with {folder.relative_to(data)}/" for file, folder in layouts)
    raise DataError(
        f"{data}: no {split} split; expected {expected}, {_listing(data)}", "another_layout", folder=data, split=split
    )


def _listing(folder: Path, most: int = 12) -> str:
    """What a folder holds, in words."""
    if not folder.is_dir():
        return "but there is no such folder"
    names = sorted(str(path.relative_to(folder)) + "/" * path.is_dir() for path in folder.glob("*"))
    names += sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.json"))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"found {', '.join(names[:most])}{more}" if names else "but the folder is empty"


def _named_split(file: Path, split: str) -> tuple[Path, Path]:
    content = read_json(file)
    if "annotations" in content and "images" in content:
        raise DataError(f"{file}: an annotation file itself, of one split", "one_annotation_file", file=file)
    named = content.get(split)
    if not isinstance(named, dict) or not all(isinstance(named.get(key), str) for key in ("annotations", "images")):
        raise DataError(f"{file}: {split!r} should be an object with 'annotations' and 'images', both paths as text.")
    annotation_file, image_folder = (file.parent / named[key] for key in ("annotations", "images"))
    for key, found, path in (
        ("annotations", annotation_file.exists(), annotation_file),
        ("images", image_folder.is_dir(), image_folder),
    ):
        if not found:
            raise DataError(f"{file}: {split!r}, {key!r}: there is no {path}.")
    return annotation_file, image_folder


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """One annotation file, `I` images and `M` boxes, grouped by image in the file's order.

    `labels` are 0..C-1, the place of the category in `category_ids`; `category_ids[label]` puts the file's id back.
    """

    annotation_file: Path
    image_folder: Path
    image_ids: np.ndarray  # int64 [I]
    sizes_wh: np.ndarray  # int32 [I, 2] pixels, as the JSON says
    name_bytes: np.ndarray  # uint8, every file name in UTF-8, end to end
    name_offsets: np.ndarray  # int64 [I + 1]
    box_offsets: np.ndarray  # int64 [I + 1]; boxes of image i are box_offsets[i] : box_offsets[i + 1]
    boxes_xyxy: np.ndarray  # float32 [M, 4] pixels
    labels: np.ndarray  # int64 [M]
    iscrowd: np.ndarray  # bool [M], also what is marked `ignore`; all False in a training index
    category_ids: tuple[int, ...]  # [C], rising
    category_names: tuple[str, ...]  # [C]
    # Counts of boxes: crowd (also what is marked `ignore`) and zero_area, both left out; clamped, kept.
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """C, the number of categories."""
        return len(self.category_ids)

    def file_name(self, i: int) -> Path:
        """Full path of image `i`."""
        start, end = self.name_offsets[i], self.name_offsets[i + 1]
        return self.image_folder / self.name_bytes[start:end].tobytes().decode()

    def targets(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels int64 `[G]` and boxes_xyxy float32 `[G, 4]` in pixels of image `i`; views, not copies."""
        own = slice(self.box_offsets[i], self.box_offsets[i + 1])
        return self.labels[own], self.boxes_xyxy[own]


def read_coco(
    annotation_file: Path | str,
    image_folder: Path | str,
    *,
    training: bool = True,
    category_ids: Sequence[int] | None = None,
    category_names: Sequence[str] | None = None,
) -> CocoIndex:
    """Read and check one COCO annotation file; no image is opened (see `check_images`).

    Ids may be sparse and in any order, but they are integers: an id written as text is refused, because the
    evaluation reads the same file and compares ids as they stand. `area`, `iscrowd` and `info` may be missing.

    Args:
        annotation_file: COCO instances JSON.
        image_folder: folder that `file_name` is relative to.
        training: crowd and zero-area boxes, and those marked `ignore`, are left out and boxes clamped to the image
            (counted in `dropped`). Boxes marked `difficult` are of real objects: they are trained on, which is logged.
            Otherwise every box stays as the file has it, since evaluation sees the untouched file.
        category_ids: those of the train split, so that labels agree; None takes the file's own.
        category_names: their names, for ids that this file does not list.

    Raises:
        DataError: the file is missing, no JSON, of another structure, or names an unknown or repeated id, a box
            wholly outside its image, with a negative side or without finite numbers; boxes that are fractions of
            the image; no images; in training no boxes.
    """
    file, folder = Path(annotation_file), Path(image_folder)
    content = read_json(file)
    images, annotations, categories = (
        records_of(file, content, key) for key in ("images", "annotations", "categories")
    )
    if not images:
        raise DataError(f"{file}: no images; 'images' is an empty list. Is this the right annotation file?")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such image folder, needed by {file}.")
    ids, names = _categories(file, categories, category_ids, category_names)

    image_ids = unique(file, "images", integers(file, "images", images, "id"))
    sizes_wh = np.stack([integers(file, "images", images, key) for key in ("width", "height")], axis=1)
    if (bad := (sizes_wh < 1).any(1) | (sizes_wh > np.iinfo(np.int32).max).any(1)).any():
        i = int(bad.argmax())
        raise DataError(f"{file}: image id {image_ids[i]}: width and height are {sizes_wh[i].tolist()}; give pixels.")
    name_bytes, name_offsets = _file_names(file, images, image_ids)

    annotation_ids = unique(file, "annotations", integers(file, "annotations", annotations, "id"))
    image_of = _lookup(file, annotations, "image_id", image_ids, annotation_ids, "an entry of 'images'")
    labels = _lookup(file, annotations, "category_id", np.array(ids, np.int64), annotation_ids, _known(category_ids))
    crowd = integers(file, "annotations", annotations, "iscrowd", default=0) != 0
    crowd |= np.array([is_set(annotation.get("ignore")) for annotation in annotations], dtype=bool)
    difficult = sum(is_set(annotation.get("difficult")) for annotation in annotations) if training else 0
    boxes_xywh = _boxes(file, annotations)
    _check_boxes(file, boxes_xywh, sizes_wh[image_of], annotation_ids, image_ids[image_of])
    _check_unit(file, boxes_xywh, sizes_wh, image_of, annotation_ids, image_ids)
    boxes_xyxy = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)

    del content, images, annotations
    dropped = {"crowd": 0, "zero_area": 0, "clamped": 0}
    keep = np.ones(len(labels), dtype=bool)
    if training:
        limits = np.tile(sizes_wh[image_of], 2)
        clamped = boxes_xyxy.clip(0, limits).astype(np.float32)
        has_area = (clamped[:, 2:] > clamped[:, :2]).all(1)
        keep = ~crowd & has_area
        # A hundredth of a pixel: the sum x + w of rounded decimals passes the edge by less than that.
        moved = keep & (np.abs(clamped - boxes_xyxy) > 0.01).any(1)
        dropped = {"crowd": int(crowd.sum()), "zero_area": int((~has_area & ~crowd).sum()), "clamped": int(moved.sum())}
        boxes_xyxy = clamped
        if not keep.any():
            raise DataError(
                f"{file}: no boxes at all to train on ({len(labels)} annotations, of them {dropped['crowd']} crowd and "
                f"{dropped['zero_area']} of zero width or height). Is this the right annotation file?"
            )
        if any(dropped.values()):
            logger.info("%s: %s", file, ", ".join(f"{count} boxes {what}" for what, count in dropped.items() if count))
        if difficult:
            logger.info("%s: %d boxes marked difficult are trained on; an evaluation ignores them", file, difficult)
    kept = np.flatnonzero(keep)
    kept = kept[np.argsort(image_of[kept], kind="stable")]
    per_image = np.bincount(image_of[kept], minlength=len(image_ids))
    return CocoIndex(
        annotation_file=file,
        image_folder=folder,
        image_ids=image_ids,
        sizes_wh=sizes_wh.astype(np.int32),
        name_bytes=name_bytes,
        name_offsets=name_offsets,
        box_offsets=np.concatenate([[0], per_image.cumsum()]).astype(np.int64),
        boxes_xyxy=boxes_xyxy[kept].astype(np.float32),
        labels=labels[kept],
        iscrowd=crowd[kept],
        category_ids=ids,
        category_names=names,
        dropped=dropped,
    )


def _categories(
    file: Path, categories: list[dict[str, Any]], wanted: Sequence[int] | None, wanted_names: Sequence[str] | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    own_ids = unique(file, "categories", integers(file, "categories", categories, "id")).tolist()
    names = {}
    for i, (identity, record) in enumerate(zip(own_ids, categories, strict=True)):
        name = record.get("name")
        if not isinstance(name, str):
            what = "key 'name' is missing" if "name" not in record else f"'name' should be text, got {short(name)}"
            raise DataError(f"{file}: {where('categories', categories, i)}: {what}.")
        if name in names.values():
            raise DataError(
                f"{file}: {where('categories', categories, i)}: a second category named {name!r}; rename it. "
                "Where both are one class, `dfine doctor DATA --fix OUT` merges them."
            )
        names[identity] = name
    ids = tuple(sorted(own_ids)) if wanted is None else tuple(int(identity) for identity in wanted)
    if not ids:
        raise DataError(f"{file}: no categories; 'categories' is an empty list. List id and name of every class.")
    fallback = wanted_names if wanted_names is not None else map(str, ids)
    return ids, tuple(names.get(identity, other) for identity, other in zip(ids, fallback, strict=True))


def _known(category_ids: Sequence[int] | None) -> str:
    return "an entry of 'categories'" if category_ids is None else "a category of the train split"


def _lookup(
    file: Path,
    annotations: list[dict[str, Any]],
    key: str,
    known: np.ndarray,
    annotation_ids: np.ndarray,
    meaning: str,
) -> np.ndarray:
    """Place of every annotation's `key` in `known`, int64 `[M]`."""
    values = integers(file, "annotations", annotations, key)
    order = np.argsort(known, kind="stable")
    place = order[np.searchsorted(known, values, sorter=order).clip(max=len(known) - 1)]
    if (bad := known[place] != values).any():
        i = int(bad.argmax())
        raise DataError(
            f"{file}: annotation id {annotation_ids[i]}: {key} {values[i]} is not {meaning} "
            f"(annotations like this: {int(bad.sum())}). Add the entry or remove these annotations."
        )
    return place


def _file_names(file: Path, images: list[dict[str, Any]], image_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    encoded = []
    for image, identity in zip(images, image_ids, strict=True):
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            what = "key 'file_name' is missing" if "file_name" not in image else f"'file_name' is {short(name)}"
            raise DataError(f"{file}: image id {identity}: {what}; it should be a path inside the image folder.")
        if name[0] in "/\\" or name[1:2] == ":" or (".." in name and ".." in name.replace("\\", "/").split("/")):
            raise DataError(
                f"{file}: image id {identity}: file_name {short(name)} leaves the image folder. "
                "Make it relative to the image folder, without '..'; `dfine doctor DATA --fix OUT` takes the picture "
                "of that name there."
            )
        try:
            encoded.append(name.encode())
        except UnicodeEncodeError as error:
            raise DataError(f"{file}: image id {identity}: file_name {short(name)} is no valid text.") from error
    offsets = np.concatenate([[0], np.cumsum([len(name) for name in encoded])]).astype(np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets


def _boxes(file: Path, annotations: list[dict[str, Any]]) -> np.ndarray:
    """Column `bbox` as float64 `[M, 4]`: left, top, width, height in pixels; NaN and infinities still inside."""
    values = [annotation.get("bbox") for annotation in annotations]
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        flat = chain.from_iterable(values)
        if set(map(type, flat)) <= {int, float}:
            try:
                return np.fromiter(chain.from_iterable(values), np.float64, 4 * len(values)).reshape(-1, 4)
            except OverflowError:  # an integer of hundreds of digits
                pass
    for i, value in enumerate(values):
        good = type(value) is list and len(value) == 4 and all(type(number) in (int, float) for number in value)
        if not good or max(map(abs, value)) > 1e300:
            what = f"bbox should be [left, top, width, height] in pixels, got {short(value)}"
            if "bbox" not in annotations[i]:
                what = "key 'bbox' is missing"
            raise DataError(f"{file}: {where('annotations', annotations, i)}: {what}.")
    raise AssertionError("unreachable: one of the boxes above is malformed")


def _check_boxes(
    file: Path, boxes_xywh: np.ndarray, sizes_wh: np.ndarray, annotation_ids: np.ndarray, image_ids: np.ndarray
) -> None:
    left_top, side = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    with np.errstate(all="ignore"):
        outside = ((left_top >= sizes_wh) | (left_top + side <= 0)).any(1) & (side > 0).all(1)
    faults = {
        "has a number that is not finite": (~np.isfinite(boxes_xywh).all(1), "Correct or remove the annotation."),
        "has a negative width or height": ((side < 0).any(1), "COCO boxes are [left, top, width, height]."),
        "lies wholly outside its image": (outside, "Are these pixels of this image? Correct or remove it."),
    }
    for what, (bad, way_out) in faults.items():
        if bad.any():
            i = int(bad.argmax())
            box = ", ".join(f"{value:g}" for value in boxes_xywh[i])
            others = f" ({int(bad.sum())} such boxes)" if bad.sum() > 1 else ""
            raise DataError(
                f"{file}: annotation id {annotation_ids[i]} of image id {image_ids[i]}: bbox [{box}] {what}; "
                f"the image is {sizes_wh[i, 0]} x {sizes_wh[i, 1]}{others}. {way_out}"
            )


def _check_unit(
    file: Path, boxes_xywh: np.ndarray, sizes_wh: np.ndarray, image_of: np.ndarray, annotation_ids: np.ndarray,
    image_ids: np.ndarray,
) -> None:  # fmt: skip
    bad = written_as_fractions(boxes_xywh, sizes_wh[image_of], image_of)
    if bad.any():
        i = int(bad.argmax())
        box = ", ".join(f"{value:g}" for value in boxes_xywh[i])
        count = f"all {len(bad)} boxes" if bad.all() else f"{int(bad.sum())} of {len(bad)} boxes"
        width, height = sizes_wh[image_of[i]]
        raise DataError(
            f"{file}: {count} lie within 0..1: these are fractions of the image, not pixels (annotation id "
            f"{annotation_ids[i]} of image id {image_ids[image_of[i]]}: bbox [{box}]; the image is {width} x {height})."
            " `dfine doctor DATA --fix OUT` writes a copy with the boxes in pixels."
        )
