"""A COCO JSON file as Python objects, and the words that name one of its records."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

from dfine_lib.errors import DataError

TABLES = {"images": "image", "annotations": "annotation", "categories": "category"}  # list → one of its records


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
            f"{file}: expected a JSON object with images, annotations, categories, got {kind_of(content)}. "
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


def kind_of(value: Any) -> str:
    """The JSON type of a value, in words."""
    words = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return words.get(type(value), "null")


def is_set(flag: Any) -> bool:
    """Whether a mark such as `ignore` or `difficult` is there: 1, true, also as text; tools write all of these."""
    return bool(flag) and str(flag).strip().lower() not in ("", "0", "0.0", "false", "no", "none")


def where(key: str, records: list[dict[str, Any]], i: int) -> str:
    """`annotation id 7`, or `annotations[3]` where the record has no usable id."""
    identity = records[i].get("id")
    return f"{TABLES[key]} id {short(identity)}" if isinstance(identity, int | float | str) else f"{key}[{i}]"


def short(value: Any, most: int = 60) -> str:
    """The value as Python writes it, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
