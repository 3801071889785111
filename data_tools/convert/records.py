"""The neutral form between two annotation formats: images with boxes, one at a time, and what is checked in them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_tools.convert.text_files import encoding_of, open_plain
from dfine_lib.data.coco_columns import short
from dfine_lib.data.images import DataError

TURNED = "turned box: the upright box around it"
LARGEST = 1e7  # pixels; a coordinate beyond this is no coordinate
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")


class NothingLeft(DataError):
    """No image or no box of the source is left, or nothing of the format was found there."""


@dataclass(slots=True)
class Box:
    """One object. Left, top, width, height: pixels, or fractions of the image where `ImageRecord.relative`."""

    left: float
    top: float
    width: float
    height: float
    name: str
    crowd: bool = False  # a region to ignore, or a group under one box
    ignore: bool = False  # one object that evaluation ignores
    difficult: bool = False
    truncated: bool = False
    area: float | None = None  # pixels², of the object's outline; None: that of the box
    identity: int | None = None
    location: str = ""  # file, and line or record
    notes: tuple[str, ...] = ()  # where the box is not one that the source holds: what was made of what


@dataclass(slots=True)
class ImageRecord:
    """One image and its boxes, as the source describes them."""

    split: str
    file_name: str  # relative, with /: where to look for the image, and its name in the new folder
    width: int | None  # pixels; None where the source does not say
    height: int | None
    boxes: list[Box]
    location: str  # file, and line or record
    relative: bool = False  # boxes are fractions of the image
    identity: int | None = None
    path: Path | None = None  # the image, where the reader knows it
    own: tuple[Path, ...] = ()  # paths of the image without its ending that go before `file_name`
    folders: tuple[Path, ...] = ()  # where to look for `file_name` before the usual places
    spare_names: tuple[str, ...] = ()  # file names to try where there is no `file_name`
    name_inside: str = ""  # with `own`: the image's name written in the annotation file
    may_be_path: bool = False  # names may be paths on the disk of whoever annotated, with `..` or from its root


@dataclass(slots=True)
class Category:
    """A class; `identity` None: numbered by its position in the list, from 1."""

    name: str
    identity: int | None = None
    supercategory: str | None = None


@dataclass(slots=True)
class Source:
    """What a reader gives: records, read while iterating, and what is known before.

    A reader counts in the ledger that it is given what never becomes a record or a box: annotation files, and records
    and boxes that it leaves out.
    """

    root: Path  # nothing outside of it is read
    records: Iterable[ImageRecord]
    splits: tuple[str, ...]
    categories: list[Category] | None = None  # None: known from the boxes; sorted by name
    total: int | None = None  # records, for the progress bar


def number(value: Any, location: str, what: str) -> float:
    """A finite number from JSON or text; a decimal comma counts as a point."""
    if isinstance(value, str):
        if len(value) > 100:
            raise DataError(f"{location}: {what} should be a number, got {len(value)} characters.")
        if "," in value and _THOUSANDS.fullmatch(value.strip()):
            raise DataError(
                f"{location}: {what} is {value.strip()!r}: a decimal comma or a comma between thousands? Write it with "
                "a decimal point, or without the comma."
            )
        try:
            value = float(value.strip().replace(",", "."))
        except ValueError:
            raise DataError(f"{location}: {what} should be a number, got {value[:40]!r}. Correct it.") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        got = "nothing" if value is None else f"{type(value).__name__}"
        raise DataError(f"{location}: {what} should be a number, got {got}. Correct it.")
    if not -LARGEST <= value <= LARGEST:  # also NaN; before float(), which has no room for a huge integer
        shown = f"{value:g}" if isinstance(value, float) else "a huge integer"
        raise DataError(f"{location}: {what} is {shown}, no coordinate of an image. Correct or remove it.")
    return float(value)


def as_number(field: str) -> float | None:
    """The number that a field holds; None where it holds none."""
    try:
        return float(field)
    except ValueError:
        return None


def numbers(values: Any, count: int, location: str, what: str) -> list[float]:
    """A list of exactly `count` finite numbers."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise DataError(f"{location}: {what} should be {count} numbers, got {short(values)}. Correct or remove it.")
    return [number(value, location, what) for value in values]


def size_or_none(value: Any, location: str, what: str) -> int | None:
    """A width or height in whole pixels; None where it is missing or 0."""
    if value is None or value == "":
        return None
    found = number(value, location, what)
    if found < 0:
        raise DataError(f"{location}: {what} is {found:g}. Correct it.")
    return round(found) or None


def text(value: Any, location: str, what: str) -> str:
    """A class or file name: text that is not empty, blanks around it kept."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None else repr(value[:40]) if isinstance(value, str) else type(value).__name__
        raise DataError(f"{location}: {what} should be text, got {got}.")  # no repr of a list: YAML's may be endless
    surrogate = not value.isascii() and any(0xD800 <= ord(c) < 0xE000 for c in value)
    if len(value) > 1000 or "\0" in value or surrogate:
        raise DataError(f"{location}: {what} is no usable text ({value[:30]!r}…).")
    return value


def corners(x1: float, y1: float, x2: float, y2: float, name: str, location: str, **more: Any) -> Box:
    """A box from its left, top, right and bottom edge."""
    return Box(x1, y1, x2 - x1, y2 - y1, name, location=location, **more)


def around(points: Iterable[tuple[float, float]], name: str, location: str, **more: Any) -> Box:
    """The smallest box around points; `DataError` where there are none."""
    xs, ys = [], []
    for x, y in points:
        xs.append(x)
        ys.append(y)
    if not xs:
        raise DataError(f"{location}: a shape without points.")
    return corners(min(xs), min(ys), max(xs), max(ys), name, location, **more)


def around_turned(
    left: float, top: float, width: float, height: float, turn: float, name: str, location: str, **more: Any
) -> Box:
    """The smallest upright box around a rectangle that is turned about its centre by `turn` radians."""
    x, y = left + width / 2, top + height / 2
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    half_w, half_h = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return corners(x - half_w, y - half_h, x + half_w, y + half_h, name, location, notes=(TURNED,), **more)


def leaves(name: str) -> bool:
    """Whether a file name, with / between its parts, is absolute or climbs out of its folder."""
    return name.startswith("/") or name[1:2] == ":" or ".." in name.split("/")


def clean_name(name: Any, location: str, may_be_path: bool = False) -> str:
    """A file name that stays in its folder, with / between its parts.

    Raises:
        DataError: it is absolute, climbs out with `..`, or is no file name.
    """
    name = text(name, location, "the file name").replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if leaves(name) or not parts:
        or_name = ", or name that folder with --images" if may_be_path else ""
        raise DataError(
            f"{location}: file name {name[:80]!r} leaves the data folder. Make it relative to the folder of the "
            f"images, without '..'{or_name}."
        )
    control = not name.isprintable() and any(ord(c) < 32 for c in name)
    if control or (len(name) > 63 and max(len(os.fsencode(part)) for part in parts) > 255):  # 4 bytes a character
        raise DataError(f"{location}: {name[:80]!r} is no file name.")
    return "/".join(parts)


def inside(path: Path, root: Path, follow_links: bool = False) -> Path:
    """The path itself, if it lies in `root` once links are followed.

    Raises:
        DataError: it does not, and links are not to be followed.
    """
    if follow_links:
        return path
    try:
        location = path.resolve(strict=True)  # else Python 3.13 passes over a link that leads back to itself
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # said where the file is read
        location = path.resolve()
    except (RuntimeError, OSError):  # before Python 3.13 a RuntimeError
        raise DataError(f"{path}: a link that leads back to itself. Remove it, or copy the file there.") from None
    if not location.is_relative_to(_resolved(os.path.abspath(root))):
        raise DataError(
            f"{path} leads out of {root}, to {location}: not read. If you trust the data, "
            "say --follow-links, or give the folder of the images with --images."
        )
    return path


@lru_cache(maxsize=8)
def _resolved(root: str) -> Path:
    """Asked for every file, and the same for all of a source."""
    return Path(root).resolve()


def annotation_file(file: Path, root: Path, follow_links: bool = False) -> Path:
    """The path itself, if it is a file inside `root`; a pipe or a device is none."""
    inside(file, root, follow_links)
    if not file.is_file():
        raise DataError(f"{file}: {'not a file' if file.exists() else 'no such file'}.")
    return file


def files_below(
    folder: Path, suffixes: tuple[str, ...], most: int = 5_000_000, follow_links: bool = False
) -> Iterator[Path]:
    """Files with one of the suffixes (lower case), sorted folder by folder.

    Linked folders are entered with `follow_links` alone, and each folder once.
    """
    found = 0
    entered: set[str] = set()

    def stop(error: OSError) -> None:  # what cannot be listed must not look empty
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for where, folders, names in os.walk(folder, onerror=stop, followlinks=follow_links):
        if follow_links:
            true = os.path.realpath(where)
            if true in entered:
                folders[:] = []
                continue
            entered.add(true)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                found += 1
                if found > most:
                    raise DataError(f"{folder}: more than {most:,} files.")
                yield Path(where) / name


def readable(file: Path, root: Path, most_bytes: int, follow_links: bool = False) -> bytes:
    """What an annotation file inside `root` holds; `DataError` if it leaves, is missing or too large."""
    annotation_file(file, root, follow_links)
    try:
        with open_plain(file) as stream:
            content = stream.read(most_bytes + 1)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from error
    if len(content) > most_bytes:
        raise DataError(f"{file}: larger than {most_bytes >> 20} MiB; no annotation file of this format is.")
    return content


def read_text(file: Path, root: Path, most_bytes: int, follow_links: bool = False) -> str:
    """The text of an annotation file inside `root`; errors are those of `readable` and `decoded`."""
    return decoded(readable(file, root, most_bytes, follow_links), file)


def decoded(content: bytes, file: Path) -> str:
    """UTF-8 or UTF-16, with or without a byte order mark."""
    try:
        return content.decode(encoding_of(content[:2]))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, line {line}: not UTF-8. Save it as UTF-8.") from error
