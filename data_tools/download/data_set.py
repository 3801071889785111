"""What is to be fetched for a data set: `addresses.json` beside this file, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert.json_stream import read_small
from data_tools.convert.records import clean_name
from dfine_lib.data.images import DataError

ADDRESSES = Path(__file__).with_name("addresses.json")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a data set."""

    split: str  # train, val, or both
    name: str
    address: str
    to: str  # folder that it belongs in or is unpacked in, relative to the data folder
    only: str = "*"  # members of the archive that are wanted
    checksum: str | None = None  # "sha1:…"
    page: str | None = None  # where a person fetches it with a browser

    @property
    def key(self) -> str:
        """Its name among the files of the set: `train/patch0.tar.gz`."""
        return f"{self.split}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set, where its files are, and what its authors ask."""

    name: str
    title: str
    home: str
    terms: str
    gigabytes: float  # to fetch, all splits
    unpacked_gigabytes: float
    next: str  # the command to run next on the folder OUT
    files: tuple[RemoteFile, ...]

    def of_splits(self, splits: tuple[str, ...]) -> tuple[RemoteFile, ...]:
        """Files that these splits need.

        Raises:
            DataError: no such split.
        """
        known = {file.split for file in self.files} - {"both"}
        if unknown := [split for split in splits if split not in known]:
            raise DataError(f"{self.name}: no split {unknown[0]!r}; there are {', '.join(sorted(known)) or 'none'}.")
        return tuple(file for file in self.files if file.split in (*splits, "both"))

    def summary(self, files: tuple[RemoteFile, ...]) -> str:
        """Title, size and terms, for a person to read before anything is fetched."""
        return (
            f"{self.title}\n{len(files)} of {len(self.files)} files; all of them are about {self.gigabytes:g} GB to "
            f"fetch, {self.unpacked_gigabytes:g} GB unpacked\nTerms: {self.terms}\nHome: {self.home}"
        )


def known_sets(addresses: Path | str = ADDRESSES) -> dict[str, DataSet]:
    """Data sets of a file of addresses, by name.

    Raises:
        DataError: it is not in the form of `addresses.json`; the message names the key and what is expected.
    """
    addresses = Path(addresses)
    content = read_small(addresses, addresses.parent, follow_links=True)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{addresses}: holds no data set; expected {{NAME: {{{', '.join(_SET)}}}}}, {_EXAMPLE}.")
    return {name: _data_set(name, entry, f"{addresses}, {name[:80]!r}") for name, entry in content.items()}


_EXAMPLE = f"as in {ADDRESSES}"
_WORDS = {str: "a text", (int, float): "a number", list: "a list"}
_SET = {"title": str, "home": str, "terms": str, "gigabytes": (int, float), "unpacked_gigabytes": (int, float),
        "next": str, "files": list}  # fmt: skip
_FILE = {"split": str, "name": str, "address": str, "to": str}
_FILE_TOO = {"only": str, "checksum": str, "page": str, "numbers": list}  # may be left out


def _check_keys(entry: Any, needed: dict[str, Any], optional: dict[str, Any], place: str) -> None:
    if not isinstance(entry, dict):
        raise DataError(f"{place}: expected an object with {', '.join(needed)}, {_EXAMPLE}.")
    for key, kind in (needed | optional).items():
        if key not in entry and key in needed:
            raise DataError(f"{place}: no key {key!r}; expected {_WORDS[kind]}, {_EXAMPLE}.")
        if key in entry and not isinstance(entry[key], kind):
            raise DataError(f"{place}: {key!r} is {json.dumps(entry[key])[:80]}; expected {_WORDS[kind]}, {_EXAMPLE}.")


def _data_set(name: str, entry: Any, place: str) -> DataSet:
    _check_keys(entry, _SET, {}, place)
    if not entry["files"]:
        raise DataError(f"{place}: 'files' is empty; expected an object for each file, {_EXAMPLE}.")
    files = tuple(file for i, record in enumerate(entry["files"]) for file in _files(record, f"{place}, files[{i}]"))
    return DataSet(name=name, **{key: entry[key] for key in _SET} | {"files": files})


def _files(record: Any, place: str) -> Iterator[RemoteFile]:
    """One, or one for each of `numbers`, first and last, put in place of {} in name and address."""
    _check_keys(record, _FILE, _FILE_TOO, place)
    if unknown := record.keys() - _FILE.keys() - _FILE_TOO.keys():
        raise DataError(f"{place}: unknown key {min(unknown)[:80]!r}; known are {', '.join([*_FILE, *_FILE_TOO])}.")
    clean_name(f"{record['to']}/{record['name']}", place)
    if not record["address"].startswith(("http://", "https://")):
        raise DataError(f"{place}: address {record['address'][:200]!r}; an address begins with https:// or http://.")
    values = {key: value for key, value in record.items() if key != "numbers"}
    if "numbers" not in record:
        yield RemoteFile(**values)
        return
    numbers = record["numbers"]
    if len(numbers) != 2 or any(type(number) is not int for number in numbers) or not 0 <= numbers[0] <= numbers[1]:
        raise DataError(f"{place}: 'numbers' is {json.dumps(numbers)[:80]}; expected the first and the last number.")
    for number in range(numbers[0], numbers[1] + 1):
        filled = {key: values[key].replace("{}", str(number)) for key in ("name", "address")}
        yield RemoteFile(**values | filled)
