"""COCO JSON as columns, whatever the file holds: nothing here judges a value, `coco_checks` does.

Training, evaluation, `data_tools.doctor` and `data_tools.parts` read the same columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dfine_lib.data.coco_json import is_set, read_json

TABLES = {"images": "image", "annotations": "annotation", "categories": "category"}  # list → one of its records
Key = int | str | None
Record = dict[str, Any]


@dataclass(eq=False, kw_only=True)
class CocoColumns:
    """One annotation file, `I` images and `M` annotations; a value that cannot be used is NaN, -1 or None.

    Keys are ids as `key_of` reads them.
    """

    annotation_file: Path
    content: Record
    images: list[Record]
    annotations: list[Record]
    categories: list[Record]
    not_objects: dict[str, list[int]]  # list → indices of entries that are no objects, and are left out
    image_keys: list[Key]
    annotation_keys: list[Key]
    category_keys: list[Key]
    as_text: dict[tuple[str, str], list[int]]  # (list, key) → records whose id is written as text
    file_names: list[str | None]  # None: missing, no text, or a path that leaves the image folder
    sizes_wh: np.ndarray  # float64 [I, 2] pixels
    image_of: np.ndarray  # int64 [M], index in `images`
    class_keys: list[Key]  # what `category_of` points into: `category_keys`, or the classes of the train split
    category_of: np.ndarray  # int64 [M], index in `class_keys`
    boxes_xywh: np.ndarray  # float64 [M, 4] pixels
    areas: np.ndarray  # float64 [M]
    iscrowd: np.ndarray  # bool [M]
    ignore: np.ndarray  # bool [M]
    difficult: np.ndarray  # bool [M]

    @property
    def crowd(self) -> np.ndarray:
        """bool `[M]`: `iscrowd` or `ignore`."""
        return self.iscrowd | self.ignore


def read_columns(file: Path, class_ids: Sequence[int] | None = None) -> CocoColumns:
    """Read one annotation file; `class_ids`: as for `columns_of`.

    Raises:
        DataError: the file is missing, cut off, no JSON or no object.
    """
    return CocoColumns(**columns_of(file, read_json(file), class_ids=class_ids))


def columns_of(
    file: Path,
    content: Record,
    *,
    class_ids: Sequence[int] | None = None,
    annotations: list[Record] | None = None,
    number: Callable[[Any], float] | None = None,
) -> dict[str, Any]:
    """The fields of `CocoColumns`.

    Args:
        file: name for messages.
        content: the file's object.
        class_ids: category ids that annotations may refer to; default: those of the file's categories.
        annotations: in place of those of the content.
        number: reads a value that is neither int nor float, NaN where it is no number; default: NaN.
    """
    tables = {key: objects_of(content, key) for key in TABLES}
    not_objects = {
        key: [i for i, record in enumerate(content[key]) if type(record) is not dict]
        for key in TABLES
        if isinstance(content.get(key), list) and len(content[key]) > len(tables[key])
    }
    images = tables["images"]
    annotations = tables["annotations"] = tables["annotations"] if annotations is None else annotations
    keys, as_text = {}, {}
    for column in (*((table, "id") for table in TABLES), ("annotations", "image_id"), ("annotations", "category_id")):
        keys[column], as_text[column] = _keys_of(tables[column[0]], column[1])
    class_keys = keys["categories", "id"] if class_ids is None else [int(i) for i in class_ids]
    sizes = np.stack([_numbers(images, key, number) for key in ("width", "height")], axis=1)
    sizes[~((sizes >= 1) & (sizes < 2**31)).all(1)] = np.nan
    return {
        "annotation_file": file,
        "content": content,
        "images": images,
        "annotations": annotations,
        "categories": tables["categories"],
        "not_objects": not_objects,
        "image_keys": keys["images", "id"],
        "annotation_keys": keys["annotations", "id"],
        "category_keys": keys["categories", "id"],
        "as_text": as_text,
        "file_names": [_safe_name(record.get("file_name")) for record in images],
        "sizes_wh": sizes,
        "image_of": indices_in(keys["images", "id"], keys["annotations", "image_id"]),
        "class_keys": class_keys,
        "category_of": indices_in(class_keys, keys["annotations", "category_id"]),
        "boxes_xywh": _boxes(annotations, number),
        "areas": _numbers(annotations, "area", number or _number_in_text),  # an area may be written as text
        **{name: _flags(annotations, name) for name in ("iscrowd", "ignore", "difficult")},
    }


def objects_of(content: Record, key: str) -> list[Record]:
    """The records of a list of the file; entries that are no objects are left out."""
    records = content.get(key)
    if not isinstance(records, list):
        return []
    return records if set(map(type, records)) <= {dict} else [one for one in records if type(one) is dict]


def key_of(value: Any) -> Key:
    """What an id means: a whole number (also as 12.0 or "12"), other text, or None for anything else."""
    kind = type(value)
    if kind is int:
        return value if -(2**63) <= value < 2**63 else None
    if kind is float:
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    if kind is str:
        text = value.strip()
        if text.lstrip("-").isdecimal() and text.isascii() and len(text) < 19:
            return int(text) if text.count("-") <= 1 else text
        return text or None
    return None


def _keys_of(records: Sequence[Record], name: str) -> tuple[list[Key], list[int]]:
    """`key_of` every record's `name`, and the indices of those written as text."""
    values = [record.get(name) for record in records]
    if set(map(type, values)) <= {int} and (not values or (max(values) < 2**63 and min(values) >= -(2**63))):
        return values, []
    keys = [key_of(value) for value in values]
    return keys, [i for i, value in enumerate(values) if isinstance(value, str) and keys[i] is not None]


def indices_in(known: Sequence[Key], wanted: Sequence[Key]) -> np.ndarray:
    """Index of each wanted key in `known`, the first where it occurs twice; int64, -1: not there."""
    if known and set(map(type, known)) | set(map(type, wanted)) <= {int}:
        known, wanted = np.array(known, np.int64), np.array(wanted, np.int64)
        order = np.argsort(known, kind="stable")
        index = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
        return np.where(known[index] == wanted, index, -1)
    first: dict[Key, int] = {}
    for i, key in enumerate(known):
        first.setdefault(key, i)
    return np.array([-1 if key is None else first.get(key, -1) for key in wanted], np.int64)


def _numbers(records: Sequence[Record], name: str, number: Callable[[Any], float] | None = None) -> np.ndarray:
    """Column of numbers, float64 `[records]`; NaN where there is none. `number`: as for `columns_of`."""
    return _as_float([record.get(name) for record in records], number)


def _as_float(values: list[Any], number: Callable[[Any], float] | None) -> np.ndarray:
    if set(map(type, values)) <= {int, float}:
        try:
            return np.array(values, np.float64)
        except OverflowError:  # an integer of hundreds of digits
            pass
    return np.array([_number(value, number) for value in values], np.float64)


def _number(value: Any, other: Callable[[Any], float] | None) -> float:
    if type(value) not in (int, float):
        return float("nan") if other is None else other(value)
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _number_in_text(value: Any) -> float:
    try:
        return float(value) if isinstance(value, str) else float("nan")
    except ValueError:
        return float("nan")


def _boxes(annotations: Sequence[Record], number: Callable[[Any], float] | None = None) -> np.ndarray:
    """Column `bbox`, float64 `[M, 4]`; NaN where a box is no list of four."""
    values = [annotation.get("bbox") for annotation in annotations]
    if not (set(map(type, values)) <= {list} and set(map(len, values)) <= {4}):
        nothing = [float("nan")] * 4
        values = [value if type(value) is list and len(value) == 4 else nothing for value in values]
    if set(map(type, chain.from_iterable(values))) <= {int, float}:
        try:
            return np.fromiter(chain.from_iterable(values), np.float64, 4 * len(values)).reshape(-1, 4)
        except OverflowError:
            pass
    return _as_float(list(chain.from_iterable(values)), number).reshape(-1, 4)


def _flags(annotations: Sequence[Record], name: str) -> np.ndarray:
    """Column of a mark such as `iscrowd`, bool `[M]`: 1, true, also as text."""
    values = [annotation.get(name) for annotation in annotations]
    plain = set(map(type, values)) <= {int, bool, type(None)}
    return np.fromiter(map(bool if plain else is_set, values), bool, len(values))


def leaves_folder(name: str) -> bool:
    """Whether a file name is absolute or climbs out of its folder."""
    return name[0] in "/\\" or name[1:2] == ":" or (".." in name and ".." in name.replace("\\", "/").split("/"))


def _safe_name(name: Any) -> str | None:
    """A file name that can be looked for inside the image folder; None for anything else."""
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 4096 or leaves_folder(name):
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    return name
