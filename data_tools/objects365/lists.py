"""The lists of a large COCO file: where they lie, where every record starts and ends, and whole numbers in them.

Objects365's training file is 6 GB of text, and several times that as objects of Python. Here it passes through in
blocks of a MB, at about 200 MB a second: numpy finds quotes and brackets, and what stands between them stays bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from data_tools.convert.json_stream import LARGEST_RECORD, parse
from dfine_lib.data.coco_json import short, why_no_json
from dfine_lib.data.images import DataError

BLOCK = 1 << 20  # bytes looked at together
LISTS = ("images", "annotations", "categories")
_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE = (ord(c) for c in '",:{}')
_BLANK = np.isin(np.arange(256), list(b" \t\n\r"))
_ENDS_NUMBER = _BLANK | np.isin(np.arange(256), list(b",}"))
_NUMBER_FIELD = 20  # bytes after a key in which its number is looked for; longer ones take the slow way


@dataclass(frozen=True, eq=False)
class Records:
    """Neighbouring records of one list, as they stand in the file."""

    file: Path
    key: str  # which list
    first: int  # place of the first of them in the list
    data: bytes
    starts: np.ndarray  # int64 [n], of the brace that opens a record, in `data`
    ends: np.ndarray  # int64 [n], behind the brace that closes it
    quotes: np.ndarray  # int64, quotes that begin or end a string
    marks: np.ndarray  # int64, brackets and braces outside of strings
    depth: np.ndarray  # int64, behind each of them; 1 inside a record

    def __len__(self) -> int:
        return len(self.starts)

    def parsed(self, i: int) -> dict[str, Any]:
        """Record `i` of these as an object of Python; `DataError` where it is no JSON."""
        record: dict[str, Any] = parse(self.data[self.starts[i] : self.ends[i]].decode(errors="replace"), self.place(i))
        return record

    def place(self, i: int) -> str:
        """For messages."""
        return f"{self.file}, {self.key}[{self.first + i}]"

    def place_and_id(self, i: int) -> str:
        """Likewise, with the id of the record where it has one."""
        identity = self.parsed(i).get("id")
        told = f" (id {short(identity)})" if isinstance(identity, int | float | str) else ""
        return f"{self.place(i)}{told}"

    @cached_property
    def _raw(self) -> np.ndarray:
        return np.frombuffer(self.data, np.uint8)

    @cached_property
    def _strings(self) -> tuple[np.ndarray, np.ndarray]:
        closing = self.quotes[1::2]
        opening = self.quotes[0::2][: len(closing)]
        return opening, closing - opening

    def integers(self, name: str) -> np.ndarray:
        """Whole number under key `name` of every record, int64 [n]; `DataError` names a record that has none."""
        raw, word = self._raw, name.encode()
        opening, length = self._strings
        here = opening[length == len(word) + 1]
        for i, letter in enumerate(word):
            here = here[raw[here + 1 + i] == letter]
        here = here[here < self.ends[-1]]
        here = here[self.depth[np.searchsorted(self.marks, here) - 1] == 1]  # not in an object inside the record
        value, plain = _numbers_after(raw, here + len(word) + 2)
        owner = np.searchsorted(self.starts, here[plain], side="right") - 1
        result = np.zeros(len(self), np.int64)
        result[owner] = value[plain]
        for i in np.flatnonzero(np.bincount(owner, minlength=len(self)) != 1):
            result[i] = self._number(int(i), name)
        return result

    def _number(self, i: int, name: str) -> int:
        found = self.parsed(i).get(name)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if type(found) is not int or abs(found) >= 2**62:
            place = self.place(i) if name == "id" else self.place_and_id(i)
            hint = "Write it as a number, here and wherever it is referred to." if type(found) is str else "Correct it."
            raise DataError(f"{place}: {name!r} should be a whole number, got {short(found, 40)}. {hint}")
        return found


def _numbers_after(raw: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number behind a colon from byte `at` on, int64, and whether one is written there plainly: only digits."""
    value = np.zeros(len(at), np.int64)
    colon, begun, over, odd = np.zeros((4, len(at)), bool)
    for i in range(_NUMBER_FIELD):
        byte = raw[np.minimum(at + i, len(raw) - 1)]
        digit = ((byte - 48) < 10) & ~over  # uint8 wraps round
        value = np.where(digit, value * 10 + (byte - 48), value)
        begun |= digit
        ends = begun & ~digit & ~over
        odd |= (digit & ~colon) | (ends & ~_ENDS_NUMBER[byte])
        over |= ends
        between = ~begun
        odd |= between & ~_BLANK[byte] & ((byte != _COLON) | colon)
        colon |= between & (byte == _COLON)
        if over.all():
            break
    return value, over & ~odd


class LargeFile:
    """A COCO file, read once by `records`; after that `spans` and `counts` tell of its three lists.

    Raises:
        DataError: no JSON object, a list that is missing, twice there or of other things than objects, a file that ends
            in the middle, a record of more than 64 MiB.
    """

    def __init__(self, file: Path, *, progress: bool = False):
        self.file = file
        self.spans: dict[str, tuple[int, int]] = {}  # first byte behind `[`, and that of `]`
        self.counts: dict[str, int] = {}
        self._progress = progress
        self._data, self._offset = b"", 0  # what comes next, and its place in the file

    def records(self) -> Iterator[Records]:
        """The three lists in the file's order, some records at a time; memory holds one block."""
        with self.file.open("rb") as self._stream, self._new_bar(self.file.stat().st_size) as self._bar:
            self._more(BLOCK)
            if self._data.startswith(b"\xef\xbb\xbf"):
                self._skip(3)
            self._take(b"{", "; is it a COCO file, JSON in UTF-8? Copy or export it again")
            while (begins := self._peek()) != b"}":
                if begins not in (b'"', b""):
                    raise self._fault("a key should be text in quotation marks: export it again")
                key = json.loads(self._whole_value("a key").decode(errors="replace"))
                self._take(b":")
                if key in LISTS:
                    if key in self.spans:
                        raise self._fault(f"a second list {key!r}")
                    self._take(b"[", f": {key!r} should be a list")
                    begin = self._offset
                    yield from self._list(key)
                    self.spans[key] = begin, self._offset
                    self._take(b"]")
                else:
                    self._whole_value(repr(key)[:60])
                if self._peek() != b"}":
                    self._take(b",")
            self._take(b"}")
            if self._peek():
                raise self._fault("text after the end of the object")
        if missing := [key for key in LISTS if key not in self.spans]:
            raise DataError(f"{self.file}: no list {missing[0]!r}. Is it a COCO instances file?")

    def _new_bar(self, total: int) -> tqdm:
        return tqdm(
            desc=f"reading {self.file.name}", total=total, unit="B", unit_scale=True, leave=False, dynamic_ncols=True,
            delay=2.0, disable=not self._progress,
        )  # fmt: skip

    def again(self, key: str) -> Iterator[Records]:
        """The records of one list once more, after `records` has found where it lies."""
        begin, end = self.spans[key]
        with self.file.open("rb") as self._stream, self._new_bar(end - begin) as self._bar:
            self._stream.seek(begin)
            self._data, self._offset = b"", begin
            yield from self._list(key)

    def _list(self, key: str) -> Iterator[Records]:
        self.counts[key] = 0
        size = BLOCK
        while True:
            self._more(size)
            raw = np.frombuffer(self._data, np.uint8)
            quotes, marks, depth = _structure(self._data, raw)
            over = np.flatnonzero(depth < 0)[:1]  # the bracket that closes the list
            stop = int(marks[over[0]]) if len(over) else None
            if len(over):
                marks, depth = marks[: over[0]], depth[: over[0]]
            closing = (raw[marks] | 0x20) == 0x7D
            ends = marks[closing & (depth == 0)] + 1
            starts = marks[~closing & (depth == 1)][: len(ends)]
            if len(ends):
                found = Records(self.file, key, self.counts[key], self._data, starts, ends, quotes, marks, depth)
                self._check(found)
                yield found
                self.counts[key] += len(found)
                size = BLOCK
            if stop is not None:
                rest = self._data[int(ends[-1]) if len(ends) else 0 : stop]
                if rest.strip(b" \t\n\r"):
                    raise self._fault(f"{key}[{self.counts[key]}] is not an object, or a comma is too many")
                self._skip(stop)
                return
            if not len(ends):
                if self._ended:
                    raise self._fault("the file ends in the middle: copy it again")
                if len(self._data) > LARGEST_RECORD:
                    raise self._fault(f"{key}[{self.counts[key]}] is larger than {LARGEST_RECORD >> 20} MiB")
                size = 2 * len(self._data)
            else:
                self._skip(int(ends[-1]))

    def _check(self, found: Records) -> None:
        """Records are objects, with one comma between two of them."""
        raw = found._raw
        begin = np.concatenate([[0], found.ends[:-1]])
        length = found.starts - begin
        good = (raw[found.starts] == _OPEN) & (raw[found.ends - 1] == _CLOSE)
        if length.max() <= 64:
            place = np.arange(int(length.max()))
            gap = raw[np.minimum(begin[:, None] + place, len(raw) - 1)]
            inside = place < length[:, None]
            commas = ((gap == _COMMA) & inside).sum(1)
            good &= (commas + (_BLANK[gap] & inside).sum(1)) == length
        else:
            gaps = [found.data[a:b] for a, b in zip(begin.tolist(), found.starts.tolist())]
            commas = np.array([gap.count(b",") for gap in gaps])
            good &= np.array([not gap.strip(b" \t\n\r,") for gap in gaps])
        good &= commas == (np.arange(len(found)) + found.first > 0)
        if not good.all():
            i = int((~good).argmax())
            raise DataError(f"{found.place(i)}: not an object, or the comma before it is missing or one too many.")

    # ---- small steps ---------------------------------------------------------------------------------------------

    def _fault(self, what: str) -> DataError:
        return DataError(f"{self.file}, about byte {self._offset:,}: {what}.")

    def _more(self, size: int) -> None:
        """Have `size` bytes at hand, or all that are left."""
        if len(self._data) < size:
            new = self._stream.read(size - len(self._data))
            self._bar.update(len(new))
            self._data += new
        self._ended = len(self._data) < size

    def _skip(self, count: int) -> None:
        self._data, self._offset = self._data[count:], self._offset + count

    def _peek(self) -> bytes:
        while True:
            self._more(1 << 16)
            bare = self._data.lstrip(b" \t\n\r")
            self._skip(len(self._data) - len(bare))
            if bare or self._ended:
                return bare[:1]

    def _take(self, wanted: bytes, hint: str = "") -> None:
        found = self._peek()
        if found != wanted:
            what = f"expected {wanted.decode()!r}, got {found.decode('latin-1')!r}{hint}"
            raise self._fault(what if found else "the file ends in the middle: copy it again")
        self._skip(1)

    def _whole_value(self, what: str) -> bytes:
        """The next value, of any kind, as bytes."""
        self._peek()
        size = 1 << 16
        while True:
            self._more(size)
            text = self._data.decode("latin-1")  # a character is a byte, so that the end is right
            try:
                _, end = json.JSONDecoder().raw_decode(text)
                if end < len(self._data) or self._ended:
                    value = self._data[:end]
                    self._skip(end)
                    return value
            except RecursionError:
                raise self._fault(f"{what} is nested too deeply for an annotation file") from None
            except ValueError as error:  # also an integer of thousands of digits
                at = error.pos if isinstance(error, json.JSONDecodeError) else 0
                unfinished = at >= len(text) - 16 or str(error).startswith("Unterminated string")
                if unfinished and self._ended:
                    raise self._fault("the file ends in the middle: copy it again") from error
                if unfinished and size > LARGEST_RECORD:
                    raise self._fault(f"{what} is larger than {LARGEST_RECORD >> 20} MiB") from error
                if not unfinished:
                    reason = why_no_json(error)[:80]
                    raise self._fault(f"{what} is no valid JSON ({reason}): export the file again") from error
            size *= 2


def _structure(data: bytes, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quotes around strings, brackets and braces outside of them, and how deep it is behind each; all int64.

    `data` begins outside of a string.
    """
    quotes = np.flatnonzero(raw == _QUOTE)
    if b"\\" in data:
        slash = np.flatnonzero(raw == ord("\\"))
        run = np.concatenate([[True], np.diff(slash) > 1])  # begins a run of backslashes
        begin = np.maximum.accumulate(np.where(run, np.arange(len(slash)), 0))
        escaping = slash[(np.arange(len(slash)) - begin) % 2 == 0]
        quotes = quotes[~np.isin(quotes, escaping + 1)]
    folded = raw | 0x20  # [ to {, ] to }
    marks = np.flatnonzero((folded == _OPEN) | (folded == _CLOSE))
    marks = marks[np.searchsorted(quotes, marks) % 2 == 0]
    depth = np.cumsum(np.where(folded[marks] == _OPEN, 1, -1))
    return quotes, marks, depth
