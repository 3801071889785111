"""The raw records of a COCO JSON file and their integer columns; a fault is a `DataError` that names its place."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dfine_lib.data.images import DataError

_SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}


def read_json(file: Path) -> dict[str, Any]:
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
        way_out = "The file looks cut off: copy or export it again." if _cut_off(text, error) else "Export it again."
        raise DataError(f"{file}: no valid JSON: {why_no_json(error)}. {way_out}") from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict):
        raise DataError(
            f"{file}: expected a JSON object with images, annotations, categories, got {_kind(content)}. "
            "A list of detections or annotations alone is not enough."
        )
    return content


def why_no_json(error: ValueError) -> str:
    """What `json.loads` found, in words for whoever wrote the file."""
    if "set_int_max_str_digits" in str(error):  # Python's advice is for programmers
        return "a whole number of thousands of digits"
    return str(error)


def _cut_off(text: bytes, error: ValueError) -> bool:
    text = text.rstrip()
    if not isinstance(error, json.JSONDecodeError):
        return False
    return not text.endswith(b"}") or error.pos >= len(error.doc.rstrip())


def _kind(value: Any) -> str:
    words = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return words.get(type(value), "null")


def records_of(file: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of objects under `key`; `DataError` if there is none."""
    if key not in content:
        found = ", ".join(sorted(map(str, content))[:8]) or "none"
        raise DataError(f"{file}: key {key!r} is missing; keys found: {found}. Is it a COCO instances file?")
    records = content[key]
    if not isinstance(records, list):
        raise DataError(f"{file}: {key!r} should be a list, got {_kind(records)}.")
    if set(map(type, records)) - {dict}:
        i = next(i for i, record in enumerate(records) if type(record) is not dict)
        raise DataError(f"{file}: {key}[{i}] should be an object, got {_kind(records[i])}.")
    return records


def integers(
    file: Path, key: str, records: list[dict[str, Any]], name: str, *, default: int | None = None
) -> np.ndarray:
    """Column `name` of the records as int64; whole floats (12.0) and, where there is a default, booleans count."""
    values = [record.get(name, default) for record in records]
    if set(map(type, values)) <= {int}:
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    for i, value in enumerate(values):
        whole = type(value) is int or (type(value) is float and value.is_integer())
        if type(value) is bool and default is not None:
            continue
        if not whole or abs(value) >= 2**63:
            place = f"{file}: {where(key, records, i)}: "
            if value is None and name not in records[i]:
                raise DataError(f"{place}key {name!r} is missing.")
            hint = (
                " Write it as a number, here and wherever it is referred to."
                if isinstance(value, str)
                else " Correct it."
            )
            raise DataError(f"{place}{name!r} should be a whole number, got {short(value)}.{hint}")
    return np.array([int(value) for value in values], dtype=np.int64)


def is_set(flag: Any) -> bool:
    """Whether a mark such as `ignore` or `difficult` is there: 1, true, also as text; tools write all of these."""
    return bool(flag) and str(flag).strip().lower() not in ("", "0", "0.0", "false", "no", "none")


def where(key: str, records: list[dict[str, Any]], i: int) -> str:
    """`annotation id 7`, or `annotations[3]` where the record has no usable id."""
    identity = records[i].get("id")
    return f"{_SINGULAR[key]} id {short(identity)}" if isinstance(identity, int | float | str) else f"{key}[{i}]"


def short(value: Any, most: int = 60) -> str:
    """The value as Python writes it, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def unique(file: Path, key: str, ids: np.ndarray) -> np.ndarray:
    """The ids as they are; `DataError` if one occurs twice."""
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        repeated = values[counts > 1]
        raise DataError(
            f"{file}: duplicate {_SINGULAR[key]} id {_first(repeated)} in {key!r}. Give every entry an id of its own "
            "(files that were merged need renumbering)."
        )
    return ids


def _first(values: Iterable[Any], most: int = 5) -> str:
    values = list(values)
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")
