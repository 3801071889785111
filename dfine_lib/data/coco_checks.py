"""One table of checks of an annotation file: training raises the first error, `data_tools.doctor` lists them all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfine_lib.data.coco_columns import TABLES, CocoColumns, Key, key_of, leaves_folder
from dfine_lib.data.coco_json import kind_of, short, where
from dfine_lib.data.plausible import written_as_fractions
from dfine_lib.errors import DataError

Rows = np.ndarray | Sequence[int]  # bool mask of the records, or their indices


@dataclass(frozen=True, eq=False)
class Check:
    """What can be wrong with the records of one list."""

    name: str  # as the doctor lists it
    table: str
    rows: Callable[[CocoColumns], Rows]  # the records that fail
    words: Callable[[CocoColumns, np.ndarray], str]  # what is wrong with the first of them
    remedy: str | None = None
    says_count: bool = False  # the words say how many records fail

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
            place = where(check.table, getattr(columns, check.table), int(failing[0]))
            if check.table == "annotations" and (image := columns.image_of[failing[0]]) >= 0:
                place += f" of image id {columns.image_keys[image]}"
            message = f"{columns.annotation_file}: {place}: {check.words(columns, failing)}"
            if len(failing) > 1 and not check.says_count:
                message += f" ({len(failing)} such {check.table})"
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
    if set(map(type, keys)) <= {int} and len(np.unique(np.array(keys, np.int64))) == len(keys):
        return []
    seen, again = set(), []
    for i, key in enumerate(keys):
        if key is None:
            continue
        if key in seen:
            again.append(i)
        seen.add(key)
    return again


def _wrong(columns: CocoColumns, table: str, i: int, key: str, should: str) -> str:
    record = getattr(columns, table)[i]
    if key not in record:
        return f"key {key!r} is missing"
    return f"{key!r} should be {should}, got {short(record[key])}"


def _ids(table: str) -> list[Check]:
    """The checks of one list's ids."""
    one = TABLES[table]
    keys: Callable[[CocoColumns], list[Key]] = lambda c: getattr(c, f"{one}_keys")  # noqa: E731
    wrong = lambda c, rows: _wrong(c, table, rows[0], "id", "a whole number")  # noqa: E731
    return [
        Check(f"{one}_id_invalid", table, lambda c: _none(keys(c)), wrong),
        Check(f"{one}_id_text", table, lambda c: c.as_text[table, "id"], _as_a_number(table, "id")),
        Check(f"{one}_id_repeated", table, lambda c: repeated(keys(c)),
              lambda c, rows: f"duplicate id in {table!r}. Give every entry an id of its own (files that were merged "
              "need renumbering)"),
    ]  # fmt: skip


def _none(keys: list[Key]) -> list[int]:
    return [i for i, key in enumerate(keys) if key is None] if None in keys else []


def _as_a_number(table: str, key: str) -> Callable[[CocoColumns, np.ndarray], str]:
    return lambda c, rows: (
        f"{_wrong(c, table, rows[0], key, 'a whole number')}. Write it as a number, here and wherever it is referred to"
    )


def _unlisted(columns: CocoColumns, rows: np.ndarray, key: str, known: str) -> str:
    value = columns.annotations[rows[0]].get(key)
    if type(key_of(value)) is not int:
        return _wrong(columns, "annotations", rows[0], key, "a whole number")
    return f"{key} {short(value)} is not {known}. Add the entry or remove these annotations"


def _unknown_category(columns: CocoColumns, rows: np.ndarray) -> str:
    own = columns.class_keys is columns.category_keys
    return _unlisted(
        columns, rows, "category_id", "an entry of 'categories'" if own else "a category of the train split"
    )


def _without_names(columns: CocoColumns) -> list[int]:
    return [i for i, record in enumerate(columns.categories) if not isinstance(record.get("name"), str)]


def _names(columns: CocoColumns) -> list[Any]:
    return [record.get("name") for record in columns.categories]


def _bad_sizes(columns: CocoColumns) -> np.ndarray:
    sizes = columns.sizes_wh
    return ~np.isfinite(sizes).all(1) | (np.nan_to_num(sizes) % 1 != 0).any(1)


def _size_words(columns: CocoColumns, rows: np.ndarray) -> str:
    record = columns.images[rows[0]]
    for key in ("width", "height"):
        if type(record.get(key)) is not int:
            return _wrong(columns, "images", rows[0], key, "a whole number")
    return f"width and height are [{short(record['width'])}, {short(record['height'])}]; give pixels"


def _leaving(columns: CocoColumns) -> list[int]:
    raw = [columns.images[i].get("file_name") for i in _none(columns.file_names)]
    return [i for i, name in zip(_none(columns.file_names), raw, strict=True)
            if isinstance(name, str) and name and leaves_folder(name)]  # fmt: skip


def _nameless(columns: CocoColumns) -> list[int]:
    leaving = set(_leaving(columns))
    return [i for i in _none(columns.file_names) if i not in leaving]


def _odd_crowd(columns: CocoColumns) -> list[int]:
    values = [record.get("iscrowd", 0) for record in columns.annotations]
    if set(map(type, values)) <= {int, bool}:
        return []
    whole = (int, bool)
    return [i for i, v in enumerate(values) if type(v) not in whole and not (type(v) is float and v.is_integer())]


def _box(columns: CocoColumns, i: int) -> str:
    return "bbox [" + ", ".join(f"{value:g}" for value in columns.boxes_xywh[i]) + "]"


def _size_of(columns: CocoColumns, i: int) -> str:
    width, height = columns.sizes_wh[columns.image_of[i]]
    return f"the image is {width:.0f} x {height:.0f}"


def _unreadable_words(columns: CocoColumns, rows: np.ndarray) -> str:
    box = columns.annotations[rows[0]].get("bbox")
    if type(box) is list and len(box) == 4 and set(map(type, box)) <= {int, float}:
        return f"{_box(columns, rows[0])} has a number that is not finite. Correct or remove the annotation"
    return _wrong(columns, "annotations", rows[0], "bbox", "[left, top, width, height] in pixels")


def _outside(columns: CocoColumns) -> np.ndarray:
    left_top, side = columns.boxes_xywh[:, :2], columns.boxes_xywh[:, 2:]
    with np.errstate(all="ignore"):
        out = (left_top >= columns.sizes_wh[columns.image_of]) | (left_top + side <= 0)
    return out.any(1) & (side > 0).all(1)


def _fractions(columns: CocoColumns) -> np.ndarray:
    return written_as_fractions(columns.boxes_xywh, columns.sizes_wh[columns.image_of], columns.image_of)


def _fraction_words(columns: CocoColumns, rows: np.ndarray) -> str:
    total = len(columns.boxes_xywh)
    count = f"all {total} boxes" if len(rows) == total else f"{len(rows)} of {total} boxes"
    box, size = _box(columns, rows[0]), _size_of(columns, rows[0])
    return f"{count} lie within 0..1: these are fractions of the image, not pixels ({box}; {size})"


CHECKS = {check.name: check for check in (
    *_ids("categories"),
    Check("category_name_missing", "categories", _without_names,
          lambda c, rows: _wrong(c, "categories", rows[0], "name", "text")),
    Check("category_name_repeated", "categories", lambda c: repeated(_names(c)),
          lambda c, rows: f"a second category named {_names(c)[rows[0]]!r}; rename it", "merge_classes"),
    *_ids("images"),
    Check("image_size_invalid", "images", _bad_sizes, _size_words),
    Check("file_name_missing", "images", _nameless,
          lambda c, rows: _wrong(c, "images", rows[0], "file_name", "a path inside the image folder")),
    Check("file_name_leaves_folder", "images", _leaving,
          lambda c, rows: f"file_name {short(c.images[rows[0]]['file_name'])} leaves the image folder. Make it "
          "relative to the image folder, without '..'", "find_images_by_name"),
    *_ids("annotations"),
    Check("image_id_as_text", "annotations", lambda c: c.as_text["annotations", "image_id"],
          _as_a_number("annotations", "image_id")),
    Check("annotation_orphan", "annotations", lambda c: c.image_of < 0,
          lambda c, rows: _unlisted(c, rows, "image_id", "an entry of 'images'")),
    Check("category_id_as_text", "annotations", lambda c: c.as_text["annotations", "category_id"],
          _as_a_number("annotations", "category_id")),
    Check("category_unknown", "annotations", lambda c: c.category_of < 0, _unknown_category),
    Check("crowd_invalid", "annotations", _odd_crowd,
          lambda c, rows: _wrong(c, "annotations", rows[0], "iscrowd", "0 or 1")),
    Check("box_unreadable", "annotations", lambda c: ~np.isfinite(c.boxes_xywh).all(1), _unreadable_words),
    Check("box_negative_side", "annotations", lambda c: (c.boxes_xywh[:, 2:] < 0).any(1),
          lambda c, rows: f"{_box(c, rows[0])} has a negative width or height; {_size_of(c, rows[0])}. COCO boxes are "
          "[left, top, width, height]"),
    Check("box_outside", "annotations", _outside,
          lambda c, rows: f"{_box(c, rows[0])} lies wholly outside its image; {_size_of(c, rows[0])}. Are these pixels "
          "of this image? Correct or remove it"),
    Check("boxes_as_fractions", "annotations", _fractions, _fraction_words, "boxes_in_pixels", True),
    Check("area_invalid", "annotations",
          lambda c: [i for i in np.flatnonzero(~np.isfinite(c.areas)) if c.annotations[i].get("area") is not None],
          lambda c, rows: _wrong(c, "annotations", rows[0], "area", "a number")),
)}  # fmt: skip
