"""Annotation files as they are stored: plain or gzip, UTF-8 or UTF-16; and what may be there in place of a file."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from dfine_lib.data.images import DataError

GIT_LFS = b"version https://git-lfs.github.com/spec/"
_MOST_TIMES, _MOST_BYTES = 200, 1 << 30  # a gzip file may be this many times its size, or this large
_NOT_TEXT = {b"PK\x03\x04": "a ZIP archive. Unpack it", b"BZh": "compressed by bzip2. Unpack it",
             b"\xfd7zXZ": "compressed by xz. Unpack it", b"SQLite format": "a database. Export it as text",
             b"\xff\xd8\xff": "an image, not annotations. Name the annotation file",
             b"\x89PNG": "an image, not annotations. Name the annotation file"}  # fmt: skip


def open_plain(file: Path) -> BinaryIO:
    """The file's bytes, decompressed where they are gzip; can be read again from its start.

    Raises:
        DataError: a Git LFS pointer, or a file of another kind that is known by its first bytes.
        OSError: it cannot be opened.
    """
    stream = file.open("rb")
    start = stream.peek(64)[:64]
    why = "a Git LFS pointer in place of the file. Run `git lfs pull`" if start.startswith(GIT_LFS) else next(
        (why for magic, why in _NOT_TEXT.items() if start.startswith(magic)), None
    )  # fmt: skip
    if why is not None:
        stream.close()
        raise DataError(f"{file}: {why}.")
    return cast(BinaryIO, io.BufferedReader(_Unzipped(file, stream))) if start.startswith(b"\x1f\x8b") else stream


class _Unzipped(io.RawIOBase):
    """What a gzip file holds; what is wrong with it is a `DataError`, and a bomb is one of them."""

    def __init__(self, file: Path, stream: BinaryIO):
        self._file, self._stream, self._unzipped = file, stream, gzip.GzipFile(fileobj=stream)
        self._most = max(_MOST_BYTES, _MOST_TIMES * file.stat().st_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._unzipped.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._unzipped.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self._file}: damaged gzip ({error}). Copy it again.") from error
        if self._unzipped.tell() > self._most:
            raise DataError(f"{self._file}: more than {self._most >> 20:,} MiB once decompressed. Decompress it first.")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._unzipped.close()
        self._stream.close()
        super().close()


def encoding_of(start: bytes) -> str:
    """Name of the encoding of a text that begins with these bytes: UTF-16, or else UTF-8; byte order mark or not."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(start) > 1 and (start[0] == 0) != (start[1] == 0):  # text begins with a letter of ASCII
        return "utf-16-le" if start[0] else "utf-16-be"
    return "utf-8-sig"
