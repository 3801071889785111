"""What a reader is given: the folder or file that the user named, and what may be read of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from data_tools.convert.csv_file import rows
from data_tools.convert.json_stream import read_small
from data_tools.convert.records import annotation_file, files_below, read_text
from data_tools.convert.splits import split_of_file
from data_tools.convert.xml_stream import elements
from data_tools.ledger import Ledger
from dfine_lib.data.images import DataError

KIND = "annotation files"  # in the ledger


@dataclass(frozen=True)
class SourceFolder:
    """The source of a conversion, whose annotation files are read here and nowhere else."""

    path: Path  # folder, or one file
    split: str  # of what names none
    ledger: Ledger
    remark: Callable[[str], None]  # takes sentences for the summary
    follow_links: bool = False  # also out of the root

    @cached_property
    def root(self) -> Path:
        """Nothing outside of it is read."""
        return self.path if self.path.is_dir() else self.path.parent

    def files(self, *suffixes: str) -> list[Path]:
        """The files with these endings in the folder and deeper, sorted folder by folder; or the file itself."""
        return list(files_below(self.path, suffixes)) if self.path.is_dir() else [self.path]

    def split_of(self, file: Path) -> str:
        """The split that the folders or the name of an annotation file of many images say."""
        return split_of_file(file.relative_to(self.root)) or self.split

    def one_for_each_split(self, files: Iterable[Path]) -> dict[str, Path]:
        """Split → annotation file, all of them taken; `DataError` where two are of one split."""
        found: dict[str, Path] = {}
        for file in files:
            if (other := found.setdefault(self.split_of(file), file)) is not file:
                split = self.split_of(file)
                raise DataError(f"{self.path}: two files for split {split}: {other} and {file}. Give one of them.")
        self.ledger.accept(KIND, len(found))
        return found

    def file(self, file: Path) -> Path:
        """The path itself, if it is a file inside the root."""
        return annotation_file(file, self.root, self.follow_links)

    def text(self, file: Path, most_bytes: int) -> str:
        """The text of a file, in UTF-8 or UTF-16."""
        return read_text(file, self.root, most_bytes, self.follow_links)

    def json(self, file: Path) -> Any:
        """The value of a JSON file."""
        return read_small(file, self.root, follow_links=self.follow_links)

    def csv_rows(self, file: Path) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of every row of a CSV file."""
        return rows(file, self.root, self.follow_links)

    def xml(self, file: Path, *tags: str, outermost: str = "") -> Iterator[Element]:
        """Every element of an XML file with one of the tags; see `elements`."""
        return elements(file, self.root, tags, self.follow_links, outermost)
