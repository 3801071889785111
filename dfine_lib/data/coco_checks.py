"""One table of checks of an annotation file: training raises the first error, `data_tools.doctor` lists them all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dfine_lib.data.coco_columns import TABLES, CocoColumns, Key, Record, key_of, kind_of, leaves_folder, short, where
from dfine_lib.errors import DataError

TINY_IMAGE_PX = 8  # a side up to which a box of one pixel is no surprise
Rows = np.ndarray | Sequence[int]  # bool mask of the records, or their indices


@dataclass(frozen=True, eq=False)
class Check:
    """What can be wrong with the records of one list."""

    name: str  # as the doctor lists it
    table: str
    rows: Callable[[CocoColumns], Rows]  # the records that fail
    # What is wrong with the first of them; or the key that is wrong, what it should be, and perhaps the way out.
    words: Callable[[CocoColumns, int], str] | tuple[str, ...]
    remedy: str | None = None

    def failing(self, columns: CocoColumns) -> np.ndarray:
        """Indices of the records that fail, int64."""
        rows = self.rows(columns)
        if isinstance(rows, np.ndarray) and rows.dtype == bool:
            return np.flatnonzero(rows)
        return np.asarray(rows, np.int64)


def raise_first(columns: CocoColumns, training: bool = True, names: Collection[str] | None = None) -> None:
    """Raise the first error of a file, which has been found by `check_lists` to hold three lists.

    Args:
        columns: of the file.
        training: the areas are not looked at.
        names: the checks to apply; default: all.

    Raises:
        DataError: names file, record and key.
    """
    for check in CHECKS.values():
        if check.name not in (CHECKS if names is None else names) or (training and check.name == "area_invalid"):
            continue
        failing = check.failing(columns)
        if len(failing):
            records, first = getattr(columns, check.table), int(failing[0])
            place = where(check.table, records, first)
            if check.table == "annotations" and (image := columns.image_of[first]) >= 0:
                place += f" of image id {columns.image_keys[image]}"
            words = (
                _wrong(records[first], *check.words) if isinstance(check.words, tuple) else check.words(columns, first)
            )
            count = f" ({len(failing)} such {check.table} of {len(records)})" if len(failing) > 1 else ""
            message = f"{columns.annotation_file}: {place}: {words}{count}"
            raise DataError(message, check.remedy) if check.remedy else DataError(message + ".")


def check_lists(columns: CocoColumns) -> None:
    """The three lists are there and hold objects.

    Raises:
        DataError: names the list.
    """
    file, content = columns.annotation_file, columns.content
    for key in TABLES:
        if key not in content:
            found = ", ".join(sorted(map(str, content))[:8]) or "none"
            raise DataError(f"{file}: key {key!r} is missing; keys found: {found}. Is it a COCO instances file?")
        if not isinstance(content[key], list):
            raise DataError(f"{file}: {key!r} should be a list, got {kind_of(content[key])}.")
        for i in columns.not_objects.get(key, ()):
            raise DataError(f"{file}: {key}[{i}] should be an object, got {kind_of(content[key][i])}.")


def repeated(keys: Sequence[Key]) -> list[int]:
    """Indices of keys that occurred before; None is no key."""
    if len(set(keys)) == len(keys):
        return []
    first: dict[Key, int] = {}
    return [i for i, key in enumerate(keys) if key is not None and first.setdefault(key, i) != i]


def _wrong(record: Record, key: str, should: str, way_out: str = "") -> str:
    if key not in record:
        return f"key {key!r} is missing"
    return f"{key!r} should be {should}, got {short(record[key])}{way_out}"


def _whole(key: str) -> tuple[str, ...]:
    return key, "a whole number", ". Write it as a number, here and wherever it is referred to"


def _ids(table: str) -> list[Check]:
    """The checks of one list's ids."""
    one = TABLES[table]
    keys: Callable[[CocoColumns], list[Key]] = lambda c: getattr(c, f"{one}_keys")  # noqa: E731
    return [
        Check(f"{one}_id_invalid", table, lambda c: _none(keys(c)), _whole("id")),
        Check(f"{one}_id_repeated", table, lambda c: repeated(keys(c)),
              lambda c, i: f"duplicate id in {table!r}. Give every entry an id of its own (files that were merged need "
              "renumbering)"),
    ]  # fmt: skip


def _none(keys: Sequence[Key]) -> list[int]:
    return [i for i, key in enumerate(keys) if key is None] if None in keys else []


def _unlisted(key: str, table: str) -> Callable[[CocoColumns, int], str]:
    """What is wrong with a reference to a record that is not in the table."""

    def words(columns: CocoColumns, i: int) -> str:
        record = columns.annotations[i]
        if key_of(record.get(key)) is None:
            return _wrong(record, *_whole(key))
        foreign = table == "categories" and columns.class_keys is not columns.category_keys
        place = "a category of the train split" if foreign else f"an entry of {table!r}"
        return f"{key} {short(record[key])} is not {place}. Add the entry or remove these annotations"

    return words


def _bad_sizes(columns: CocoColumns) -> np.ndarray:
    sizes = columns.sizes_wh
    return ~np.isfinite(sizes).all(1) | (np.nan_to_num(sizes) % 1 != 0).any(1)


def _size_words(columns: CocoColumns, i: int) -> str:
    record = columns.images[i]
    return next(
        (_wrong(record, key, "a whole number") for key in ("width", "height") if type(record.get(key)) is not int),
        f"width and height are [{short(record.get('width'))}, {short(record.get('height'))}]; give pixels",
    )


def _leaving(columns: CocoColumns) -> list[int]:
    """The images whose file name leaves the image folder."""
    names = {i: columns.images[i].get("file_name") for i in _none(columns.file_names)}
    return [i for i, name in names.items() if isinstance(name, str) and name and leaves_folder(name)]


def _odd_crowd(columns: CocoColumns) -> list[int]:
    values = [record.get("iscrowd", 0) for record in columns.annotations]
    if set(map(type, values)) <= {int, bool}:
        return []
    return [i for i, v in enumerate(values) if type(v) not in (int, bool) and not (type(v) is float and v.is_integer())]


def _of_image(words: str) -> Callable[[CocoColumns, int], str]:
    """What is wrong with a box, in words that name the box and the size of its image."""

    def filled(columns: CocoColumns, i: int) -> str:
        width, height = columns.sizes_wh[columns.image_of[i]]
        box = "bbox [" + ", ".join(f"{value:g}" for value in columns.boxes_xywh[i]) + "]"
        return words.format(box=box, size=f"the image is {width:.0f} x {height:.0f}")

    return filled


def _outside(columns: CocoColumns) -> np.ndarray:
    left_top, side = columns.boxes_xywh[:, :2], columns.boxes_xywh[:, 2:]
    with np.errstate(all="ignore"):
        out = (left_top >= columns.sizes_wh[columns.image_of]) | (left_top + side <= 0)
    return out.any(1) & (side > 0).all(1)


def written_as_fractions(boxes_xywh: np.ndarray, sizes_wh: np.ndarray, image_of: np.ndarray) -> np.ndarray:
    """Which boxes are fractions of their image although pixels are meant.

    The boxes of an image are judged together: they are fractions if there are two or more, all their numbers lie
    within 0..1, one of these numbers at least is not whole, and both sides of the image are longer than
    `TINY_IMAGE_PX`. Where that holds, one box an image being enough, for more than half of the boxes of a file, it is
    a file of fractions: then numbers within -1..2 are fractions too (boxes that reach out of the image), whole or not.

    So one box of a pixel in a file of pixels is no fraction, nor are placeholders such as [0, 0, 1, 1].

    Args:
        boxes_xywh: `[M, 4]` as the file has them: COCO's left, top, width, height; corners, or centre and sides, too.
        sizes_wh: `[M, 2]`, width and height in pixels of the image of every box.
        image_of: int64 `[M]`, from 0; boxes with the same number belong to one image.

    Returns:
        bool `[M]`.
    """
    large = (sizes_wh > TINY_IMAGE_PX).all(1)
    within = large & ((boxes_xywh >= 0) & (boxes_xywh <= 1)).all(1)
    if not within.any():
        return within
    partial = (boxes_xywh != np.floor(boxes_xywh)).any(1)
    boxes, fitting, partials = (np.bincount(image_of, flags) for flags in (np.ones(len(within)), within, partial))
    agreed = (fitting == boxes) & (partials > 0)
    if agreed[image_of].mean() > 0.5:
        return large & ((boxes_xywh >= -1) & (boxes_xywh <= 2)).all(1)
    return (agreed & (boxes >= 2))[image_of]


CHECKS = {check.name: check for check in (
    *_ids("categories"),
    Check("category_name_missing", "categories",
          lambda c: [i for i, record in enumerate(c.categories) if not isinstance(record.get("name"), str)],
          ("name", "text")),
    Check("category_name_repeated", "categories", lambda c: repeated([record.get("name") for record in c.categories]),
          lambda c, i: f"a second category named {c.categories[i]['name']!r}; rename it", "merge_classes"),
    *_ids("images"),
    Check("image_size_invalid", "images", _bad_sizes, _size_words),
    Check("file_name_missing", "images", lambda c: sorted({*_none(c.file_names)} - {*_leaving(c)}),
          ("file_name", "a path inside the image folder")),
    Check("file_name_leaves_folder", "images", _leaving,
          lambda c, i: f"file_name {short(c.images[i]['file_name'])} leaves the image folder. Make it relative to the "
          "image folder, without '..'", "find_images_by_name"),
    *_ids("annotations"),
    Check("annotation_orphan", "annotations", lambda c: c.image_of < 0, _unlisted("image_id", "images")),
    Check("category_unknown", "annotations", lambda c: c.category_of < 0, _unlisted("category_id", "categories")),
    Check("crowd_invalid", "annotations", _odd_crowd, ("iscrowd", "0 or 1")),
    Check("box_unreadable", "annotations", lambda c: ~np.isfinite(c.boxes_xywh).all(1),
          ("bbox", "four finite numbers, [left, top, width, height] in pixels", ". Correct or remove the annotation")),
    Check("box_negative_side", "annotations", lambda c: (c.boxes_xywh[:, 2:] < 0).any(1),
          _of_image("{box} has a negative width or height; {size}. COCO boxes are [left, top, width, height]")),
    Check("box_outside", "annotations", _outside,
          _of_image("{box} lies wholly outside its image; {size}. Are these pixels of this image? Correct or "
                    "remove it")),
    Check("boxes_as_fractions", "annotations",
          lambda c: written_as_fractions(c.boxes_xywh, c.sizes_wh[c.image_of], c.image_of),
          _of_image("{box} lies within 0..1: a fraction of the image, not pixels; {size}"), "boxes_in_pixels"),
    Check("area_invalid", "annotations",
          lambda c: [i for i in np.flatnonzero(~np.isfinite(c.areas)) if c.annotations[i].get("area") is not None],
          ("area", "a number")),
)}  # fmt: skip
