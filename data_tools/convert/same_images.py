"""Whether an image is in two splits, by its path or by its content."""

from __future__ import annotations

import filecmp
import hashlib
from pathlib import Path

from dfine_lib.data.images import DataError

_SAMPLE = 4096  # bytes at the start, in the middle and at the end of a file


class SameImages:
    """Images that were taken, with their split.

    Files are compared whole only where their length and three samples agree; with a single split none is read.
    """

    def __init__(self, several_splits: bool):
        self.several_splits = several_splits
        self._taken: dict[Path, tuple[str, str, str]] = {}  # split, location, the record's name for it
        self._alike: dict[bytes, list[tuple[Path, str]]] = {}

    def split_with(self, path: Path) -> str | None:
        """Split of an image with the same bytes that was taken before; None where there is none."""
        if not self.several_splits:
            return None
        return next((split for other, split in self._alike.get(_samples(path), ())
                     if filecmp.cmp(other, path, shallow=False)), None)  # fmt: skip

    def add(self, path: Path, split: str, location: str, name: str) -> None:
        """Note that a record takes an image.

        Raises:
            DataError: another record has it already.
        """
        if path in self._taken:
            other, at, known = self._taken[path]
            if other != split:
                raise DataError(
                    f"{location}: image {path} is in split {other} already ({at}). An image belongs to one split: "
                    f"remove it from {split} or from {other}."
                )
            if known != name:
                raise DataError(
                    f"{location}: image {name[:80]!r} would be {path}, which {at} takes as {known[:80]!r}: two images, "
                    "and one of them is not there. Give --images a folder that holds both under these names."
                )
            raise DataError(
                f"{location}: a second record for image {name[:80]!r} in split {split}; the first is {at}. Remove one."
            )
        self._taken[path] = split, location, name

    def remember(self, path: Path, split: str) -> None:
        """Compare images of other splits with this one from now on."""
        if self.several_splits:
            self._alike.setdefault(_samples(path), []).append((path, split))


def copies_of(paths: list[Path]) -> list[int]:
    """For each file, the number of the first one in the list with the same bytes; its own number where it is that."""
    alike: dict[bytes, list[int]] = {}
    found = []
    for i, path in enumerate(paths):
        same = alike.setdefault(_samples(path), [])
        first = next((j for j in same if filecmp.cmp(paths[j], path, shallow=False)), None)
        found.append(i if first is None else first)
        if first is None:
            same.append(i)
    return found


def _samples(path: Path) -> bytes:
    """Length and samples of a file's bytes, hashed."""
    length = path.stat().st_size
    digest = hashlib.blake2b(str(length).encode(), digest_size=16)
    with path.open("rb") as file:
        for start in sorted({0, max(0, length // 2 - _SAMPLE // 2), max(0, length - _SAMPLE)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return digest.digest()
