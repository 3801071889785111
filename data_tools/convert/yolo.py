"""YOLO text files, read: `class cx cy w h` a row, fractions of the image; see `yolo_rows` for rows of more numbers.

Read are Ultralytics' folders (`data.yaml`, images in `images/`, label files in `labels/` or beside the images),
darknet's (`obj.data`, `obj.names`, lists of images), and folders of images and label files alone, whose sub-folders
name the splits. Paths in `data.yaml` are relative to `path`, else to the file itself; one that is not there is an
error. An image without a label file has no objects. Where the folder has no images, or the user names a folder of
images, the label files say which images there are.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from data_tools.convert.records import Category, ImageRecord, Source
from data_tools.convert.report import NothingLeft
from data_tools.convert.splits import known_split, split_name, split_of_folders, train_last
from data_tools.convert.yolo_files import (
    IMAGE_WORDS,
    YoloFiles,
    inside,
    is_absolute,
    label_place,
    name_in,
    short_names,
)
from data_tools.convert.yolo_rows import YoloRows
from data_tools.convert.yolo_settings import Settings, find_settings
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

_LATER_KEEPS = {"train": 0, "val": 2, "test": 3}  # an image of train and val stays in val; other splits: 1


@dataclass(slots=True)
class _Item:
    """One image of one split."""

    path: str  # of the image below the root, whether it is there or not
    name: str  # in the new folder
    label: str | None


def read_yolo(
    source: Path,
    split: str,
    *,
    images: Path | None = None,
    spare_names: list[str] | None = None,
    follow_links: bool = False,
    ledger: Ledger,
) -> Source:
    """A folder with or without `data.yaml`, or the `.yaml` / `.data` file itself.

    Args:
        source: what to read.
        split: name of the only split, where nothing names one.
        images: the user's own folder of images; the label files say which of them are taken.
        spare_names: the classes in order, where the folder does not name them.
        follow_links: read what links outside, and enter linked folders.
        ledger: gets label files that no image has, and what a list names twice or in vain.

    Raises:
        NothingLeft: not one image has a label file; names the folders that hold label files.
        DataError: a path that `data.yaml` names is not there, two splits have the same images, or a row makes no sense.
    """
    root = source if source.is_dir() else source.parent
    files = YoloFiles(root, follow_links)
    settings = find_settings(source, files)
    names = settings.names or spare_names
    if names is None:
        raise DataError(f"{source}: no class names (data.yaml, obj.names, classes.txt). Give them with --categories.")
    remarks = [
        f"class number {i} is an empty line in the list of classes: it counts, and has no name"
        for i, name in enumerate(names) if not name
    ]  # fmt: skip
    splits = _Splits(files, settings, images is None and bool(files.images), ledger, remarks)
    found = splits.named() or splits.by_folders(split)
    if not any(found.values()) and not settings.entries:
        raise DataError(f"{source}: no YOLO label files and no images here.")
    found = _one_split_each(found, settings, splits.keys, ledger, root)
    taken = {item.label for items in found.values() for item in items if item.label is not None}
    _count_labels(files, taken, found, source, ledger, remarks)
    rows = YoloRows(root, settings, names, lambda: sorted(taken), remarks, follow_links)
    records = (
        _record(name, item, rows, root, splits.with_images) for name, items in train_last(found.items(), itemgetter(0))
        for item in items
    )  # fmt: skip
    categories = [Category(name) for name in names if name]
    return Source(root, records, tuple(found), categories, sum(map(len, found.values())), remarks)


def _record(split: str, item: _Item, rows: YoloRows, root: Path, with_images: bool) -> ImageRecord:
    boxes = [] if item.label is None else rows.boxes(item.label)
    location = str(root / (item.path if item.label is None else item.label))
    return ImageRecord(
        split, item.name, None, None, boxes, location, relative=True, path=Path(item.path) if with_images else None,
        folders=((root / item.path).parent,),
    )  # fmt: skip


class _Splits:
    """Which images belong to which split.

    Args:
        with_images: the images here count; otherwise the label files, and their images are elsewhere.
    """

    def __init__(self, files: YoloFiles, settings: Settings, with_images: bool, ledger: Ledger, remarks: list[str]):
        self.files, self.settings, self.with_images = files, settings, with_images
        self.ledger, self.remarks = ledger, remarks
        self.keys: dict[str, str] = {}  # split → keys of the description that name it

    def named(self) -> dict[str, list[_Item]]:
        """The splits that the description of the data set names; empty where it names none.

        Raises:
            DataError: a path that it names is not there.
        """
        found: dict[str, list[_Item]] = {}
        entries = self.settings.entries
        labels_alone = not self.with_images and any(map(self.files.is_label, self.files.texts))
        if labels_alone and not any(self._find(one) for ones in entries.values() for one in ones):
            if entries:  # it describes a larger set, whose images are elsewhere
                self.remarks.append(f"{self.settings.file.name} names no folder that is here: splits after the folders")
            return {}
        for key, paths in entries.items():
            places = [self._place(key, path) for path in paths]
            if None in places:
                continue
            split = split_name(key)
            self.keys[split] = f"{self.keys[split]}, {key}" if split in self.keys else key
            found.setdefault(split, []).extend(self._items(places))
        return {split: self._once(items) for split, items in found.items()}

    def _find(self, entry: str) -> tuple[str, bool, bool] | None:
        """The folder or list that an entry means, whether it is a list, and whether it is written otherwise."""
        meant = entry.replace("\\", "/")
        for paths, otherwise in ((inside(meant, self.settings.folders, self.files.root), False),
                                 (self._elsewhere(meant), True)):  # fmt: skip
            if (place := self._there(paths)) is not None:
                return *place, otherwise
        return None

    def _place(self, key: str, entry: str) -> tuple[str, bool] | None:
        """The folder or list that an entry means, and whether it is a list; None for a key that names no split.

        Raises:
            DataError: it is not there.
        """
        place = self._find(entry)
        if place is not None and place[2]:
            self.remarks.append(f"{key}: {entry[:120]} is read as {place[0] or '.'}")
        if place is not None or known_split(key) is None:
            return place and place[:2]
        meant = entry.replace("\\", "/")
        paths = inside(meant, self.settings.folders, self.files.root)
        if (link := self.files.link_of(paths)) is not None:
            raise DataError(
                f"{self.settings.file}: {key!r} is {entry[:120]!r}; {link} is a link to another folder. If you trust "
                "the data, say --follow-links."
            )
        kind = "images" if self.with_images else "label files"
        root, home = self.files.root.absolute(), self.settings.file.parent
        outside = os.path.abspath(home / self.settings.base.replace("\\", "/") / meant)
        if os.path.isdir(outside) and not Path(outside).is_relative_to(root):
            raise DataError(
                f"{self.settings.file}: {key!r} is {entry[:120]!r}, which is outside of {root}, and nothing outside is "
                f"read. Give the folder that holds both in place of {root}: {os.path.commonpath([root, outside])}."
            )
        raise DataError(
            f"{self.settings.file}: {key!r} is {entry[:120]!r}, and no {kind} are there (looked in "
            f"{', '.join(path or '.' for path in paths[:3]) or 'no folder of this machine'}). Folders with {kind}: "
            f"{self.files.folders_with(kind)}. Correct the value, or remove the key {key!r}."
        )

    def _there(self, paths: list[str]) -> tuple[str, bool] | None:
        """The first path with something in it: a folder of images (or of label files), or a list."""
        for path in paths:
            folder = self.files.folder([path] if self.with_images else [self._label_folder(path), path])
            if folder is not None and any(True for _ in self._below(folder)):
                return folder, False
            if path and (text := self.files.text([path])) is not None:
                return text, True
        return None

    def _elsewhere(self, entry: str) -> list[str]:
        """What a path of another machine may mean: what is below a folder named as this one, or its one tail with the
        name of a split; `data/` of darknet is the folder itself."""
        parts = [part for part in entry.split("/") if part not in ("", ".", "..")]
        root = self.files.root.absolute().name
        found = ["/".join(parts[i + 1 :]) for i in range(len(parts) - 1, -1, -1) if parts[i] == root][:1]
        if parts[:1] == ["data"]:
            found.append("/".join(parts[1:]))
        if is_absolute(entry):
            tails = [parts[i:] for i in range(1, len(parts))]
            found += ["/".join(tail) for tail in tails
                      if any(known_split(posixpath.splitext(part)[0]) is not None for part in tail)]  # fmt: skip
        return found

    def _label_folder(self, path: str) -> str:
        parts = path.split("/")
        at = [i for i, part in enumerate(parts) if part.lower() in IMAGE_WORDS]
        return "/".join([*parts[: at[-1]], "labels", *parts[at[-1] + 1 :]]) if at else path

    def _below(self, folder: str) -> Iterator[tuple[str, str | None]]:
        """Image and label file of everything in a folder."""
        if self.with_images:
            yield from ((image, self.files.label_of.get(image)) for image in self.files.images_below(folder)
                        if image not in self.files.sharing)  # fmt: skip
            return
        start = f"{folder}/" if folder else ""
        for text in self.files.texts:
            if text.startswith(start) and self.files.is_label(text):
                yield text[:-4] + ".jpg", text

    def _items(self, places: list[tuple[str, bool]]) -> list[_Item]:
        if len(places) == 1 and not places[0][1]:
            folder = places[0][0]
            return [_Item(path, name_in(folder, path), label) for path, label in self._below(folder)]
        found: list[tuple[str, str | None]] = []
        for path, is_list in places:
            found += self._of_list(path) if is_list else self._below(path)
        names = short_names([path for path, _ in found])
        return [_Item(path, name, label) for (path, label), name in zip(found, names, strict=True)]

    def _of_list(self, list_file: str) -> Iterator[tuple[str, str | None]]:
        here = self.files.images.__contains__ if self.with_images else lambda path: self.files.label(path) is not None
        for line, row, path in self.files.listed(list_file, self.settings.folders, here):
            location = f"{self.files.root / list_file}, line {line}: {row[:200]}"
            if self.with_images and path in self.files.sharing:
                continue
            if path is not None:
                yield path, self.files.label_of.get(path) if self.with_images else self.files.label(path)
            elif self.with_images:
                self.ledger.skip("records", "image missing", location)
            else:
                yield row.replace("\\", "/").rpartition("/")[2], None

    def _once(self, items: list[_Item]) -> list[_Item]:
        """Each image once, though two lists or keys of one split name it."""
        found: dict[str, _Item] = {}
        for item in items:
            if found.setdefault(item.path, item) is not item:
                self.ledger.skip("records", "image named twice in its split", str(self.files.root / item.path))
        return list(found.values())

    def by_folders(self, only: str) -> dict[str, list[_Item]]:
        """Splits after the folders that have their names; `only` where none has.

        Beside folders of known names, another one with label files is a split of its own name. Images outside of them,
        and beside a folder called images, are not taken.
        """
        pairs = list(self._below(""))
        words = (*IMAGE_WORDS, "labels")
        if any(part.lower() in words for path, _ in pairs for part in path.split("/")[:-1]):
            pairs = [(path, label) for path, label in pairs
                     if label is not None or any(part.lower() in words for part in path.split("/")[:-1])]  # fmt: skip
        beside: set[tuple[str, ...]] = set()  # folders that hold folders of splits
        for path, _ in pairs:
            parts = path.split("/")[:-1]
            at = next((i for i, part in enumerate(parts) if known_split(part) is not None), None)
            if at is not None:
                beside.add(tuple(parts[:at]))
        found: dict[str, list[tuple[str, str | None]]] = {}
        for path, label in pairs:
            parts = path.split("/")[:-1]
            own = split_of_folders(parts) if beside else only
            if own is None and label is not None:
                own = next((split_name(parts[i]) for i in range(len(parts)) if tuple(parts[:i]) in beside
                            and parts[i].lower() not in words), None)  # fmt: skip
            if own is not None:
                found.setdefault(own, []).append((path, label))
        order = sorted(found, key=lambda name: _LATER_KEEPS.get(name, 1))
        return {
            split: [_Item(path, name, label) for (path, label), name in
                    zip(found[split], short_names([path for path, _ in found[split]]), strict=True)]
            for split in order
        }  # fmt: skip


def _one_split_each(
    found: dict[str, list[_Item]], settings: Settings, keys: dict[str, str], ledger: Ledger, root: Path
) -> dict[str, list[_Item]]:
    """Leave an image that two splits name in the one that measures: test before val before train.

    Raises:
        DataError: all images of a split are in another one as well.
    """
    keeps: dict[str, str] = {}
    for split in sorted(found, key=lambda name: _LATER_KEEPS.get(name, 1)):
        keeps.update((item.path, split) for item in found[split])
    kept: dict[str, list[_Item]] = {}
    for split, items in found.items():
        kept[split] = [item for item in items if keeps[item.path] == split]
        if items and not kept[split]:
            other = keeps[items[0].path]
            labelled = sum(item.label is not None for item in items)
            raise DataError(
                f"{settings.file}: all images of {keys.get(split, split)!r} are in {keys.get(other, other)!r} as well "
                f"({len(items):,} images, {labelled:,} of them with a label file). An image belongs to one split: give "
                f"{keys.get(other, other)!r} other images, or remove that key and divide the result with dfine data "
                "split."
            )
        for item in items:
            if keeps[item.path] != split:
                ledger.skip("records", f"image is in {keeps[item.path]} as well", root / item.path)
    return kept


def _count_labels(
    files: YoloFiles, taken: set[str], found: dict[str, list[_Item]], source: Path, ledger: Ledger, remarks: list[str]
) -> None:
    """Count label files, taken and left out, and images without one.

    Raises:
        NothingLeft: there are images, and not one of them has a label file.
    """
    total = sum(map(len, found.values()))
    for image in files.sharing:
        ledger.skip("records", "image shares its label file with one of another ending", files.root / image)
    ledger.found("annotation files", len(taken))
    ledger.taken("annotation files", len(taken))
    for path, reason in files.left_labels(taken):
        ledger.skip("annotation files", reason, files.root / path)
    if total and not taken:
        example = next(item.path for items in found.values() for item in items)
        where = files.folders_with("label files")
        if files.linked:
            where += f". Linked folders were not entered: {', '.join(files.linked[:3])} (--follow-links enters them)"
        raise NothingLeft(
            f"{source}: not one of {total:,} images has a label file. Folders with label files: {where}. The label "
            f"file of {example} would be {label_place(example)}: rename the folder or the files."
        )
    if (without := total - sum(item.label is not None for items in found.values() for item in items)) > 0:
        remarks.append(f"{without:,} of {total:,} images have no label file: taken as images without objects")
    if pairs := [pair for pair in files.paired_otherwise if pair[1] in taken]:
        remarks.append(
            f"{len(pairs):,} label files have the name of their image in another form ({pairs[0][1]} is that of "
            f"{pairs[0][0]}, for example)"
        )
