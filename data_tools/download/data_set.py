"""What is to be fetched for a data set: `addresses.json` beside this file, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert.json_stream import parse
from data_tools.convert.records import clean_name, decoded
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
    next: str  # the command that goes on from the folder OUT
    files: tuple[RemoteFile, ...]

    def of_splits(self, splits: tuple[str, ...]) -> tuple[RemoteFile, ...]:
        """Files that these splits need.

        Raises:
            DataError: no such split.
        """
        known = {file.split for file in self.files} - {"both"}
        if unknown := [split for split in splits if split not in known]:
            raise DataError(f"{self.name}: no split {unknown[0]!r}; there are {', '.join(sorted(known))}.")
        return tuple(file for file in self.files if file.split in (*splits, "both"))

    def told(self, files: tuple[RemoteFile, ...]) -> str:
        """Title, size and terms, for a person to read before anything is fetched."""
        return (
            f"{self.title}\n{len(files)} of {len(self.files)} files; all of them are about {self.gigabytes:g} GB to "
            f"fetch, {self.unpacked_gigabytes:g} GB unpacked\nTerms: {self.terms}\nHome: {self.home}"
        )


def known_sets(addresses: Path | str = ADDRESSES) -> dict[str, DataSet]:
    """Data sets of a file of addresses, by name.

    Raises:
        DataError: it is not in the form of `addresses.json`.
    """
    addresses = Path(addresses)
    content = parse(decoded(addresses.read_bytes(), addresses), str(addresses))
    try:
        return {name: _data_set(name, entry) for name, entry in content.items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{addresses}: not in the form of {ADDRESSES} ({error}).") from error


def _data_set(name: str, entry: dict[str, Any]) -> DataSet:
    files = tuple(file for record in entry["files"] for file in _files(record))
    wanted = ("title", "home", "terms", "gigabytes", "unpacked_gigabytes", "next")
    return DataSet(name=name, files=files, **{key: entry[key] for key in wanted})


def _files(record: dict[str, Any]) -> Iterator[RemoteFile]:
    """One, or one for each of `numbers`, first and last, put in place of {} in name and address."""
    record = dict(record)
    first, last = record.pop("numbers", (None, None))
    clean_name(f"{record['to']}/{record['name']}", json.dumps(record)[:80])
    if not str(record["address"]).startswith(("http://", "https://")):
        raise DataError(f"{record['address']}: an address begins with https:// or http://.")
    for number in [None] if first is None else range(first, last + 1):
        filled = {key: value.replace("{}", str(number)) if key in ("name", "address") else value
                  for key, value in record.items()}  # fmt: skip
        yield RemoteFile(**filled)
