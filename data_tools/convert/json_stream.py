"""JSON files larger than memory, record by record; and small ones, with limits."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from data_tools.convert.records import read_text
from data_tools.convert.text_files import encoding_of, open_plain
from dfine_lib.data.coco_columns import why_no_json
from dfine_lib.data.images import DataError

CHUNK = 1 << 20  # bytes read at a time
LARGEST_RECORD = 64 << 20  # characters
_BLANKS = " \t\n\r"


def parse(text: str, place: str) -> Any:
    """One JSON text; what is wrong with it is a `DataError` that begins with `place`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{place}: nested too deeply for an annotation file. Export it again.") from None
    except ValueError as error:  # also an integer of thousands of digits
        raise DataError(f"{place}: no valid JSON: {why_no_json(error)[:120]}. Export it again.") from error


def read_small(file: Path, root: Path, most_bytes: int = 256 << 20, follow_links: bool = False) -> Any:
    """The value of a whole file."""
    return parse(read_text(file, root, most_bytes, follow_links), str(file))


class _Reader:
    """A window on the text of a file: `text[at:]` is what comes next."""

    def __init__(self, file: Path, progress: bool = False):
        self.bar = tqdm(
            desc=f"reading {file.name}", total=file.stat().st_size, unit="B", unit_scale=True, leave=False,
            dynamic_ncols=True, delay=2.0, disable=not progress,
        )  # fmt: skip
        self.file, self.text, self.begin, self.at, self.seen = file, "", 0, 0, 0
        self.stream = open_plain(file)
        self.decode = codecs.getincrementaldecoder(encoding_of(self.stream.read(2)))()
        self.stream.seek(0)
        self.ended = False
        self.decoder = json.JSONDecoder()

    def fail(self, what: str) -> DataError:
        return DataError(f"{self.file}, about character {self.seen + self.at:,}: {what}")

    def more(self, size: int = CHUNK) -> bool:
        if self.ended:
            return False
        raw = self.stream.read(size)
        self.ended = not raw
        self.bar.update(len(raw))
        try:
            new = self.decode.decode(raw, final=self.ended)
        except UnicodeDecodeError as error:
            raise self.fail("neither UTF-8 nor UTF-16. Save it as UTF-8.") from error
        self.seen += self.at
        self.text, self.at = self.text[self.at :] + new, 0
        return True

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            text, at, end = self.text, self.at, len(self.text)
            while at < end and text[at] in _BLANKS:
                at += 1
            self.at = at
            if at < end:
                return text[at]
            if not self.more():
                return ""

    def take(self, wanted: str) -> None:
        found = self.peek()
        if found != wanted:
            raise self.fail(
                f"expected {wanted!r}, got {found!r}." if found else "the file ends in the middle: copy it again."
            )
        self.at += 1

    def value(self, key: str, i: int | None = None) -> Any:
        """The next whole value; `key` and `i` say which, for messages."""
        self.peek()
        size = CHUNK
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # a number at the end of the window may go on
                    self.begin, self.at = self.at, end
                    return found
            except RecursionError:
                raise self.fail(
                    f"{_place(key, i)} is nested too deeply for an annotation file. Export it again."
                ) from None
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - 16
                if self.ended or not unfinished:
                    whole = self.text.rstrip().endswith(("}", "]"))
                    cut = " The file ends in the middle: copy it again." if unfinished and not whole else ""
                    raise self.fail(f"{_place(key, i)} is no valid JSON ({error.msg}).{cut}") from error
            except ValueError as error:  # an integer of thousands of digits
                raise self.fail(f"{_place(key, i)}: {why_no_json(error)[:80]}.") from error
            if len(self.text) - self.at > LARGEST_RECORD:
                raise self.fail(f"{_place(key, i)} is larger than {LARGEST_RECORD >> 20} MiB.")
            self.more(size)
            size *= 2

    def elements(self, key: str) -> Iterator[Any]:
        """The values of the list that comes next."""
        self.take("[")
        i = 0
        while self.peek() != "]" or i:
            yield self.value(key, i)
            i += 1
            if self.peek() == "]":
                break
            self.take(",")
        self.take("]")


def _place(key: str, i: int | None) -> str:
    return key if i is None else f"{key}[{i}]"


def first_character(file: Path) -> str:
    """The first character that is no blank; `DataError` where there is none."""
    reader = _Reader(file)
    with reader.stream, reader.bar:
        found = reader.peek()
    if not found:
        raise DataError(f"{file}: the file is empty. Copy or export it again.")
    return found


def list_records(file: Path) -> Iterator[tuple[int, Any]]:
    """Index and value of every element of the list that the file holds."""
    reader = _Reader(file)
    with reader.stream, reader.bar:
        if reader.peek() != "[":
            raise DataError(f"{file}: expected a JSON list of records.")
        yield from enumerate(reader.elements("record "))


def object_records(file: Path, progress: bool = False) -> Iterator[tuple[str, int, Any]]:
    """Key, index and value of every element of every list in the object that the file holds.

    A value that is no list, and an empty list, come with the index -1. Memory holds one record at a time.
    """
    yield from _object_records(file, _Reader(file, progress))


def object_texts(file: Path, progress: bool = False) -> Iterator[tuple[str, int, Any, str]]:
    """The same with the text of every value as it stands in the file; that of an empty list is of no meaning."""
    reader = _Reader(file, progress)
    for key, i, value in _object_records(file, reader):
        yield key, i, value, reader.text[reader.begin : reader.at]


def _object_records(file: Path, reader: _Reader) -> Iterator[tuple[str, int, Any]]:
    with reader.stream, reader.bar:
        if reader.peek() != "{":
            raise DataError(f"{file}: expected a JSON object with images, annotations, categories.")
        reader.take("{")
        while reader.peek() != "}":
            key = reader.value("a key")
            if not isinstance(key, str):
                raise reader.fail("a key should be text.")
            reader.take(":")
            if reader.peek() == "[":
                i = -1
                for i, value in enumerate(reader.elements(key[:40])):
                    yield key, i, value
                if i < 0:
                    yield key, -1, []
            else:
                yield key, -1, reader.value(key[:40])
            if reader.peek() != "}":
                reader.take(",")
        reader.take("}")
        if reader.peek():
            raise reader.fail("text after the end of the object.")
