"""COCO JSON as columns, whatever the file holds: nothing here judges a value, `coco_checks` does.

Training, evaluation, `data_tools.doctor` and `data_tools.parts` read the same columns.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dfine_lib.errors import DataError

TABLES = {"images": "image", "annotations": "annotation", "categories": "category"}  # list → one of its records
Key = int | str | None  # an id; text only where the doctor reads the file
Record = dict[str, Any]


def key_of(value: Any) -> Key:
    """What an id means: a whole number, also as 12.0, or None for anything else."""
    whole = type(value) is int or (type(value) is float and value.is_integer() and abs(value) < 2**53)
    return int(value) if whole and -(2**63) <= value < 2**63 else None


class CocoColumns:
    """One annotation file, `I` images and `M` annotations; a value that cannot be used is NaN, -1 or None.

    Args:
        annotation_file: name for messages.
        content: the file's object.
        class_ids: category ids that annotations may refer to; default: those of the file's categories.
    """

    key = staticmethod(key_of)

    def __init__(self, annotation_file: Path, content: Record, class_ids: Sequence[int] | None = None) -> None:
        self.annotation_file, self.content = annotation_file, content
        self.images, self.annotations, self.categories = (objects_of(content, key) for key in TABLES)
        self.image_keys = self._keys(self.images, "id")  # ids as `key` reads them
        self.annotation_keys = self._keys(self.annotations, "id")
        self.category_keys = self._keys(self.categories, "id")
        self.file_names = [_safe_name(record.get("file_name")) for record in self.images]
        sizes = np.stack([_floats(_values(self.images, key), self.number) for key in ("width", "height")], axis=1)
        self.sizes_wh = np.where(((sizes >= 1) & (sizes < 2**31)).all(1, keepdims=True), sizes, np.nan)  # [I, 2] pixels
        self.image_of = indices_in(self.image_keys, self._keys(self.annotations, "image_id"))  # int64 [M], in `images`
        self.class_keys = self.category_keys if class_ids is None else [int(i) for i in class_ids]
        self.category_of = indices_in(self.class_keys, self._keys(self.annotations, "category_id"))  # in `class_keys`
        self.boxes_xywh = _boxes(_values(self.annotations, "bbox"), self.number)  # float64 [M, 4] pixels
        self.areas = _floats(_values(self.annotations, "area"), _from_text)  # float64 [M]
        self.iscrowd, self.ignore, self.difficult = (  # bool [M]
            _flags(_values(self.annotations, key)) for key in ("iscrowd", "ignore", "difficult")
        )

    @staticmethod
    def number(value: Any) -> float:
        """What a side of an image or a box means that is neither int nor float: no number. The doctor reads text."""
        return float("nan")

    def _keys(self, records: Sequence[Record], name: str) -> list[Key]:
        values = _values(records, name)
        plain = set(map(type, values)) <= {int} and (not values or (max(values) < 2**63 and min(values) >= -(2**63)))
        return values if plain else [self.key(value) for value in values]

    @property
    def crowd(self) -> np.ndarray:
        """bool `[M]`: `iscrowd` or `ignore`."""
        return self.iscrowd | self.ignore

    @cached_property
    def not_objects(self) -> dict[str, list[int]]:
        """Indices of the entries of each list that are no objects, and are left out."""
        lists = {key: self.content[key] for key in TABLES if isinstance(self.content.get(key), list)}
        found = {key: [i for i, one in enumerate(records) if type(one) is not dict] for key, records in lists.items()}
        return {key: rows for key, rows in found.items() if rows}

    def without_records(self) -> CocoColumns:
        """These columns, which let go of images and annotations as JSON: ten times the memory of the columns."""
        self.content, self.images, self.annotations, self.annotation_keys, self.file_names = {}, [], [], [], []
        return self


def read_json(file: Path) -> Record:
    """The object that the file holds; `DataError` if it is missing, cut off, no JSON or no object."""
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe is waited for, a device has no end
            raise DataError(f"{file}: a pipe or a device, not an annotation file. Give a plain file.")
        text = file.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{file}: cannot read the annotation file: {reason}. Check the path.") from error
    collecting = gc.isenabled()
    gc.disable()  # walking through half a million new dicts again and again would more than double the time
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise DataError(f"{file}: nested too deeply to be an annotation file. Export it again.") from error
    except ValueError as error:  # also UnicodeDecodeError
        unfinished = isinstance(error, json.JSONDecodeError) and not error.doc[error.pos :].strip()
        cut_off = unfinished or (isinstance(error, json.JSONDecodeError) and not error.doc.rstrip().endswith("}"))
        way_out = "The file looks cut off: copy or export it again." if cut_off else "Export it again."
        raise DataError(f"{file}: no valid JSON: {why_no_json(error)}. {way_out}") from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict):
        raise DataError(
            f"{file}: expected a JSON object with images, annotations, categories, got {kind_of(content)}. "
            "A list of detections or annotations alone is not enough."
        )
    return content


def why_no_json(error: ValueError) -> str:
    """What `json.loads` found, in words for whoever wrote the file."""
    too_long = "set_int_max_str_digits" in str(error)  # Python's advice is for programmers
    return "a whole number of thousands of digits" if too_long else str(error)


def objects_of(content: Record, key: str) -> list[Record]:
    """The records of a list of the file; entries that are no objects are left out."""
    records = content.get(key)
    if not isinstance(records, list):
        return []
    return records if set(map(type, records)) <= {dict} else [one for one in records if type(one) is dict]


def indices_in(known: Sequence[Key], wanted: Sequence[Key]) -> np.ndarray:
    """Index of each wanted key in `known`, the first where it occurs twice; int64, -1: not there."""
    if known and set(map(type, known)) | set(map(type, wanted)) <= {int}:
        known, wanted = np.array(known, np.int64), np.array(wanted, np.int64)
        order = np.argsort(known, kind="stable")
        index = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
        return np.where(known[index] == wanted, index, -1)
    first = {key: i for i, key in reversed(list(enumerate(known))) if key is not None}
    return np.array([first.get(key, -1) for key in wanted], np.int64)


def _values(records: Sequence[Record], name: str) -> list[Any]:
    return [record.get(name) for record in records]


def _floats(values: list[Any], other: Callable[[Any], float]) -> np.ndarray:
    """float64 `[values]`. `other` reads what is neither int nor float: NaN if it is no number."""
    if set(map(type, values)) <= {int, float}:
        with contextlib.suppress(OverflowError):  # an integer of hundreds of digits
            return np.array(values, np.float64)
    return np.array([_number(value, other) for value in values], np.float64)


def _number(value: Any, other: Callable[[Any], float]) -> float:
    try:
        return float(value) if type(value) in (int, float) else other(value)
    except OverflowError:
        return float("inf")


def _from_text(value: Any) -> float:
    """A number written as text, NaN for anything else."""
    try:
        return float(value) if isinstance(value, str) else float("nan")
    except ValueError:
        return float("nan")


def _boxes(values: list[Any], other: Callable[[Any], float]) -> np.ndarray:
    """float64 `[M, 4]`; NaN where a box is no list of four."""
    if not (set(map(type, values)) <= {list} and set(map(len, values)) <= {4}):
        nothing = [float("nan")] * 4
        values = [value if type(value) is list and len(value) == 4 else nothing for value in values]
    return _floats(list(chain.from_iterable(values)), other).reshape(-1, 4)


def is_set(flag: Any) -> bool:
    """Whether a mark such as `ignore` or `difficult` is there: 1, true, also as text; tools write all of these."""
    return bool(flag) and str(flag).strip().lower() not in ("", "0", "0.0", "false", "no", "none")


def _flags(values: list[Any]) -> np.ndarray:
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


def kind_of(value: Any) -> str:
    """The JSON type of a value, in words."""
    words = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return words.get(type(value), "null")


def where(key: str, records: list[dict[str, Any]], i: int) -> str:
    """`annotation id 7`, or `annotations[3]` where the record has no usable id."""
    identity = records[i].get("id")
    return f"{TABLES[key]} id {short(identity)}" if isinstance(identity, int | float | str) else f"{key}[{i}]"


def short(value: Any, most: int = 60) -> str:
    """The value as Python writes it, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
