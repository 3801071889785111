"""Rows of a CSV file with their line numbers; delimiter and header are found out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from data_tools.convert.records import annotation_file, files_below
from data_tools.convert.text_files import encoding_of, open_plain
from dfine_lib.data.images import DataError

LONGEST_FIELD = 100_000  # characters
LONGEST_ROW = 1 << 20  # characters, over all its lines; the reader would hold a row of any length


def rows(file: Path, root: Path, follow_links: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every row that is not empty; separated by the comma, semicolon or tab of line 1."""
    annotation_file(file, root, follow_links)
    csv.field_size_limit(LONGEST_FIELD)
    line = 0
    try:
        with open_plain(file) as raw:
            encoding = encoding_of(raw.read(2))
            raw.seek(0)
            stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
            first = stream.readline(LONGEST_FIELD)
            delimiter = max(",;\t", key=first.count)
            stream.seek(0)
            lines = _Lines(stream, file)
            for row in csv.reader(lines, delimiter=delimiter):
                line, lines.left = lines.number, LONGEST_ROW
                if any(field.strip() for field in row):
                    yield line, row
    except UnicodeDecodeError as error:
        raise DataError(f"{file}, after line {line}: not UTF-8. Save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file}, after line {line}: no valid CSV: {error}.") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from error


class _Lines:
    """Lines for `csv.reader`, which joins those of a quoted field: together no more than `left` characters."""

    def __init__(self, stream: TextIO, file: Path):
        self.stream, self.file = stream, file
        self.number, self.left = 0, LONGEST_ROW

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.stream.readline(self.left + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.left -= len(line)
        if self.left < 0:
            raise DataError(
                f"{self.file}, line {self.number}: a row of more than {LONGEST_ROW:,} characters. Is it a CSV file, is "
                "every quotation mark closed?"
            )
        return line


def csv_files(source: Path) -> list[Path]:
    """The file itself, or all CSV and TSV files in the folder and deeper, sorted folder by folder."""
    if source.is_file():
        return [source]
    if found := list(files_below(source, (".csv", ".tsv"))):
        return found
    raise DataError(f"{source}: no CSV files here.")
