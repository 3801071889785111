"""A file that is written in order, goes on where a killed run stopped, and takes its name when it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from tqdm.auto import tqdm

from dfine_lib.data.images import DataError

_BLOCK = 8 << 20


class FileInOrder:
    """Every run must write the same bytes; those that are on disk already are passed over."""

    def __init__(self, place: Path, *, progress: bool = False):
        self.place, self.part = place, place.with_name(f".{place.name}.part")
        self.at = 0
        self._progress = progress

    def __enter__(self) -> FileInOrder:
        self.part.touch()
        self._stream = self.part.open("r+b")  # not "ab": files are not copied into those by the system
        self.had = self._stream.seek(0, os.SEEK_END)
        self._bar = tqdm(
            desc=f"writing {self.place.name}", unit="B", unit_scale=True, leave=False, dynamic_ncols=True, delay=2.0,
            disable=not self._progress,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._stream, self._bar:
            if kind is not None:
                return
            if self.at < self.had:
                raise DataError(
                    f"{self.part}: longer than what belongs there. Remove it; the same command starts again."
                )
            self._stream.flush()
            os.fsync(self._stream.fileno())
        os.replace(self.part, self.place)

    def write(self, data: bytes) -> None:
        """The next bytes."""
        known = min(max(self.had - self.at, 0), len(data))
        self._stream.write(memoryview(data)[known:])
        self.at += len(data)
        self._bar.update(len(data))

    def write_list(self, records: Iterable[bytes]) -> None:
        """The next records, with commas between them."""
        waiting: list[bytes] = []
        size, first = 0, True
        for record in records:
            waiting.append(record)
            size += len(record)
            if size > _BLOCK:
                self.write((b"" if first else b", ") + b", ".join(waiting))
                waiting, size, first = [], 0, False
        if waiting:
            self.write((b"" if first else b", ") + b", ".join(waiting))

    def copy(self, source: Path, begin: int, end: int) -> None:
        """Bytes `begin` to `end` of another file."""
        known = min(max(self.had - self.at, 0), end - begin)
        self.at += known
        self._bar.update(known)
        with source.open("rb") as stream:
            stream.seek(begin + known)
            left = end - begin - known
            while left:
                count = self._copied_by_the_system(stream, min(left, _BLOCK))
                if not count:
                    data = stream.read(min(left, _BLOCK))
                    if not data:
                        raise DataError(f"{source}: has become shorter while it was read.")
                    self.write(data)
                    count = len(data)
                left -= count

    def _copied_by_the_system(self, stream: BinaryIO, count: int) -> int:
        """Bytes copied without passing through here, which takes a fifth of the time; 0 where that is not known."""
        if not hasattr(os, "copy_file_range"):
            return 0
        self._stream.flush()
        here = stream.tell()
        try:
            count = os.copy_file_range(stream.fileno(), self._stream.fileno(), count, here, self._stream.tell())
        except OSError:  # two file systems, or one that cannot
            return 0
        stream.seek(here + count)
        self._stream.seek(count, os.SEEK_CUR)
        self.at += count
        self._bar.update(count)
        return count


def remove_quietly(path: Path) -> None:
    """Remove a file that may not be there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
