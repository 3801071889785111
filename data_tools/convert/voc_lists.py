"""VOC's lists of images: `ImageSets/Main/SPLIT.txt`, one for each split, as tools write them.

A row is `NAME`, `NAME.jpg`, `JPEGImages/NAME.jpg`, `NAME  1` (the flag of a class), or an image and its XML file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from data_tools.convert.annotation_files import ANNOTATION_FOLDERS, IMAGE_FOLDERS, kept_folders
from data_tools.convert.records import files_below, leaves
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import in_order, known_split, split_name
from data_tools.image_formats import is_image_name
from data_tools.ledger import Ledger
from dfine_lib.data.images import DataError

LISTS = "split lists"  # in the ledger
_TASKS = ("main", "", "segmentation", "layout")  # folders in ImageSets; the first one that has lists counts
_FLAGS = ("-1", "0", "1")

_Listed = list[tuple[Path, str, Path]]  # XML file, split, home: the folder that holds ImageSets


def listed_files(source: SourceFolder, files: list[Path]) -> _Listed | None:
    """The XML files of all lists, by list; None where there are no lists. What is in none is counted as left out.

    Args:
        source: whose split is that of CVAT's `default.txt`.
        files: all XML files in it.

    Raises:
        DataError: an image is in two lists; no row of a split names an XML file; only lists of single classes.
    """
    homes = _homes(source, files)
    ledger = source.ledger
    chosen = {home: _splits(_detection_lists(lists, ledger), source.split) for home, lists in homes.items()}
    chosen = {home: lists for home, lists in chosen.items() if lists}
    if not chosen:
        return None
    index = _index(files, chosen)
    found: _Listed = []
    rows: dict[str, list[Path]] = {}  # split → its lists
    for home, lists in chosen.items():
        taken: dict[Path, str] = {}
        for name, rows_of_list in lists:
            ledger.accept(LISTS)
            rows.setdefault(name, []).append(rows_of_list.file)
            for location, row in rows_of_list:
                file = _file_of(row, index[home], location)
                if file is None:
                    ledger.skip(KIND, "listed and not there", f"{location}: {row[:200]}")
                elif file in taken:
                    raise DataError(
                        f"{location}: {row[:80]!r} is listed a second time, after {taken[file]}. An image belongs to "
                        "one split: remove one of the rows."
                    )
                else:
                    taken[file] = location
                    found.append((file, name, home))
    for name, lists_of_split in rows.items():
        if not any(own == name for _, own, _ in found):
            raise DataError(
                f"{lists_of_split[0]}: no row names an XML file in {source.root}, so that split {name} would be "
                "empty. Write the names of its files there, or remove the list."
            )
    return found


class _List:
    """A text file of rows, with the location of each."""

    def __init__(self, file: Path, source: SourceFolder):
        self.file, self.stem = file, _stem(file)
        text = source.text(file, 256 << 20)
        self.rows = [(f"{file}, line {i}", row.strip()) for i, row in enumerate(text.splitlines(), 1) if row.strip()]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.rows)

    def is_of_one_class(self, stems: set[str]) -> bool:
        """Whether this is `cat_train.txt`: every row with the flag that says whether a cat is there."""
        _, sign, split = self.stem.rpartition("_")
        flagged = all(row.split()[-1] in _FLAGS and " " in row.replace("\t", " ") for _, row in self.rows)
        if known_split(self.stem) is not None or self.stem.lower() == "default" or not flagged:
            return False
        return bool(self.rows) or (bool(sign) and (known_split(split) is not None or split in stems))


def _stem(file: Path) -> str:
    """The name of a list: `train` of `train.txt`, and of `train_list.txt`."""
    short = file.stem[:-4].rstrip("_-. ") if file.stem.lower().endswith("list") else ""
    return short if known_split(short) is not None else file.stem


def _homes(source: SourceFolder, files: list[Path]) -> dict[Path, list[_List]]:
    """Lists by the folder that holds `ImageSets`; where there is none, `train.txt` and such beside the annotations."""
    homes: dict[Path, dict[str, list[Path]]] = {}
    beside: dict[Path, list[Path]] = {}
    root = source.root
    parents = {root, *(file.parent for file in files), *(file.parent.parent for file in files)}
    for file in files_below(root, (".txt",), follow_links=source.follow_links):
        parts = file.relative_to(root).parts[:-1]
        at = [i for i, part in enumerate(parts) if part.lower() == "imagesets"]
        if at:
            task = "/".join(parts[at[-1] + 1 :]).lower()
            homes.setdefault(root.joinpath(*parts[: at[-1]]), {}).setdefault(task, []).append(file)
        elif file.parent in parents and known_split(_stem(file)) is not None:
            beside.setdefault(file.parent, []).append(file)
    found = {}
    for home, tasks in homes.items():
        task = next((name for name in (*_TASKS, *tasks) if name in tasks), "")
        found[home] = [_List(file, source) for file in tasks.pop(task, [])]
        for file in (file for lists in tasks.values() for file in lists):
            source.ledger.skip(LISTS, "list of another task than detection", file)
    if not found:
        for home, lists in beside.items():
            opened = [_List(file, source) for file in lists]
            index = _index(files, [home])[home]
            found[home] = [rows for rows in opened if any(_file_of(row, index, where) for where, row in rows)]
            for rows in opened:
                if rows not in found[home]:
                    if any(is_image_name(row) for _, row in rows):
                        raise DataError(
                            f"{rows.file}: no row names an XML file in {home}: whose split is it? Write names as "
                            f"{files[0].stem!r}, or remove the list."
                        )
                    source.ledger.skip(LISTS, "its rows name no XML file", rows.file)
    return found


def _detection_lists(lists: list[_List], ledger: Ledger) -> list[_List]:
    """The lists of splits, without those of one class, and without `trainval` where train and val are there."""
    stems = {rows.stem for rows in lists}
    single = [rows for rows in lists if rows.is_of_one_class(stems)]
    lists = [rows for rows in lists if rows not in single]
    if not lists and (joined := _joined(single)):
        return joined
    for rows in single:
        ledger.skip(LISTS, "list of one class", rows.file)
    unions = [rows for rows in lists if known_split(rows.stem) == "train" and "val" in rows.stem.lower()]
    known = {known_split(rows.stem) for rows in lists if rows not in unions}
    if {"train", "val"} <= known:
        for rows in unions:
            ledger.skip(LISTS, "union of train and val", rows.file)
        lists = [rows for rows in lists if rows not in unions]
    return lists


def _joined(single: list[_List]) -> list[_List]:
    """VoTT writes `cat_train.txt` and no `train.txt`: all images of a split are those of all its classes' lists."""
    found: dict[str, _List] = {}
    for rows in single:
        split = rows.stem.rpartition("_")[2]
        if known_split(split) is None:
            continue
        rows.stem = split
        if (first := found.setdefault(split, rows)) is not rows:
            known = {_without_flag(row) for _, row in first}
            first.rows += [(location, row) for location, row in rows if _without_flag(row) not in known]
    return list(found.values())


def _without_flag(row: str) -> str:
    return row.replace("\t", " ").rpartition(" ")[0].strip()


def _splits(lists: list[_List], split: str) -> list[tuple[str, _List]]:
    """Every list with its split, train first.

    Raises:
        DataError: two lists are of one split.
    """
    found: dict[str, _List] = {}
    for rows in lists:
        stem = rows.stem
        name = split if stem.lower() == "default" and len(lists) == 1 else split_name(stem)  # CVAT's only subset
        if (other := found.setdefault(name, rows)) is not rows:
            raise DataError(f"{rows.file}: split {name} has a list already, {other.file}. Join them, or remove one.")
    return [(name, found[name]) for name in in_order(found)]


_Index = dict[str, list[Path]]


def _index(files: list[Path], homes: Iterable[Path]) -> dict[Path, _Index]:
    """XML files of each home, by the name that a row may give them; a row without a folder may mean any folder."""
    index: dict[Path, _Index] = {home: {} for home in homes}
    for file in files:
        home = next((parent for parent in file.parents if parent in index), None)
        if home is not None:
            name = "/".join([*kept_folders(file.relative_to(home).parent.parts), file.stem])
            index[home].setdefault(name, []).append(file)
    for names in index.values():
        deeper: _Index = {}
        for name, same in names.items():
            if "/" in name and (last := name.rpartition("/")[2]) not in names:
                deeper.setdefault(last, []).extend(same)
        names.update(deeper)
    return index


def _file_of(row: str, index: _Index, location: str) -> Path | None:
    """The XML file that a row names.

    A flag at the end is left off where the row without it names a file; names may hold blanks.

    Raises:
        DataError: several files have that name.
    """
    start, _, last = row.replace("\t", " ").rpartition(" ")
    texts = [row, start.strip()] if last in _FLAGS and start.strip() else [row]
    pair = {_names(text)[-1] for text in row.split()}
    if len(row.split()) == 2 and len(pair) == 1:  # an image and its XML file
        texts.append(row.split()[0])
    for text in texts:
        for name in _names(text.strip("\"'")):  # Datumaro quotes names with blanks
            if same := index.get(name):
                if len(same) > 1:
                    raise DataError(
                        f"{location}: {row[:80]!r} may be {same[0]} or {same[1]}. Write the folder in front of it."
                    )
                return same[0]
    return None


def _names(text: str) -> list[str]:
    """What a row may call a file: with its ending and without, folders that every set has and those above left off."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        return [""]
    folders, last = parts[:-1], parts[-1]
    stem = PurePosixPath(last).stem if is_image_name(last) or last.lower().endswith(".xml") else last
    known = [i for i, part in enumerate(folders) if part.lower() in ANNOTATION_FOLDERS | IMAGE_FOLDERS]
    after = folders[known[-1] + 1 :] if known else folders
    choices = [after] if leaves(text.replace("\\", "/")) else [kept_folders(folders), after]
    return list(dict.fromkeys("/".join([*choice, name]) for choice in choices for name in (last, stem)))
