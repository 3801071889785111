"""The three lists of a large COCO file: read record by record, each with its text, and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_tools.convert.json_stream import object_texts
from dfine_lib.data.coco_columns import short
from dfine_lib.errors import DataError
from dfine_lib.files import whole_file

LISTS = ("images", "annotations", "categories")


def read_lists(file: Path, progress: bool = False) -> Iterator[tuple[str, int, dict[str, Any], str]]:
    """Key, index, record and the record's text as it stands in the file; memory holds one record.

    An empty list comes with the index -1.

    Raises:
        DataError: the file is no JSON object, ends in the middle, or holds a record of more than 64 MiB; one of the
            three lists is missing, stands twice, or holds something other than objects.
    """
    seen: list[str] = []
    for key, i, record, text in object_texts(file, progress):
        if key not in LISTS:
            continue
        if i <= 0:
            if key in seen:
                raise DataError(f"{file}: a second list {key!r}. Remove one of them.")
            seen.append(key)
        if i < 0 and record != []:
            raise DataError(f"{file}: {key!r} should be a list, got {short(record, 40)}. Export the file again.")
        if i >= 0 and not isinstance(record, dict):
            raise DataError(f"{file}, {key}[{i}]: not an object: {short(record, 40)}. Remove it.")
        yield key, i, record, text
    if missing := [key for key in LISTS if key not in seen]:
        raise DataError(f"{file}: no list {missing[0]!r}. Is it a COCO file? Copy or export it again.")


def place(file: Path, key: str, i: int, record: dict[str, Any]) -> str:
    """Where a record stands, with its id where it has one; for messages."""
    identity = record.get("id")
    known = f" (id {short(identity)})" if isinstance(identity, int | float | str) else ""
    return f"{file}, {key}[{i}]{known}"


def whole_number(file: Path, key: str, i: int, record: dict[str, Any], name: str) -> int:
    """The whole number under `name`; `DataError` names a record that has none."""
    found = record.get(name)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if type(found) is not int or abs(found) >= 2**62:
        where = f"{file}, {key}[{i}]" if name == "id" else place(file, key, i, record)
        hint = "Write it as a number, here and wherever it is referred to." if type(found) is str else "Correct it."
        raise DataError(f"{where}: {name!r} should be a whole number, got {short(found, 40)}. {hint}")
    return found


def write_lists(target: Path, records: Iterable[tuple[str, str]]) -> None:
    """Write texts of records, given list by list with the key of their list, as one COCO file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as file:
        written: list[str] = []
        for key, text in records:
            if key in written[-1:]:
                start = ", "
            else:
                start = f'], "{key}": [' if written else f'{{"{key}": ['
                written.append(key)
            file.write(f"{start}{text}".encode())
        for key in LISTS:
            if key not in written:
                file.write((f'], "{key}": [' if written else f'{{"{key}": [').encode())
                written.append(key)
        file.write(b"]}\n")
