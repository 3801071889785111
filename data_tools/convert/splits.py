"""Names of splits, understood the same way in every format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from dfine_lib.data.images import DataError

if TYPE_CHECKING:
    from data_tools.convert.records import ImageRecord

Item = TypeVar("Item")
_MEANINGS = {
    "train": "train", "training": "train", "trainval": "train", "trainvalid": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_YEAR = re.compile(r"(?:(?:19|20)\d\d[-_ ]?)?(.+?)(?:[-_ ]?(?:19|20)\d\d)?")


def known_split(word: str) -> str | None:
    """`train`, `val` or `test` where the word is a name of one, in any case, with a year or without; else None."""
    word = re.sub(r"(?<=n)[-_ ](?=val)", "", word.strip().lower())  # train-val is trainval
    found = _YEAR.fullmatch(word)
    return _MEANINGS.get(found[1]) if found else None


def split_name(text: str) -> str:
    """`train`, `val` or `test` for every known name of one; another name stays as it is.

    Raises:
        DataError: the name cannot be that of a folder.
    """
    word = text.strip()
    if (known := known_split(word)) is not None:
        return known
    if not word or len(word) > 40 or word.startswith(".") or not all(c.isalnum() or c in "-_. " for c in word):
        raise DataError(f"split {text[:60]!r}: the name of a split is letters, digits, - and _. Rename it.")
    return word


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each split once: train, val, test, then the others by name."""
    order = {"train": 0, "val": 1, "test": 2}
    return tuple(sorted(set(names), key=lambda name: (order.get(name, 3), name)))


def train_last(items: Iterable[Item], split_of: Callable[[Item], str]) -> list[Item]:
    """In their order, those of train last: an image that is in train and in val stays where it is measured on."""
    return sorted(items, key=lambda item: split_of(item) == "train")


def by_split(parts: dict[str, Item], read: Callable[[str, Item], Iterable[ImageRecord]]) -> Iterator[ImageRecord]:
    """The records of every split, those of train last."""
    for split, part in train_last(parts.items(), itemgetter(0)):
        yield from read(split, part)


def split_of_folders(parts: Iterable[str]) -> str | None:
    """The split that the first folder with a known name stands for; None where no folder has one."""
    return next((found for part in parts if (found := known_split(part)) is not None), None)


def split_of_file(path: PurePath) -> str | None:
    """The split of an annotation file of many images, by its folders, else by the words of its own name.

    Args:
        path: relative to the root of the source.
    """
    if (found := split_of_folders(path.parts[:-1])) is not None:
        return found
    if (found := known_split(path.stem)) is not None:
        return found
    found = {split for word in re.split(r"[-_. ]+", path.stem) if (split := known_split(word)) is not None}
    return found.pop() if len(found) == 1 else None
