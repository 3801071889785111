"""Which images of a YOLO folder belong to which split: by its description, else by the names of its folders."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from data_tools.convert.splits import known_split, split_name, split_of_file
from data_tools.convert.yolo_files import IMAGE_WORDS, YoloFiles, inside, is_absolute, name_in, short_names
from data_tools.convert.yolo_settings import Settings
from dfine_lib.data.images import DataError

ORDER = {"train": 0, "val": 2, "test": 3}  # other splits: 1; an image of train and val stays in val


@dataclass(slots=True)
class Item:
    """One image of one split."""

    path: str  # of the image below the root, whether it is there or not
    name: str  # in the new folder
    label: str | None


class Splits:
    """Which images belong to which split.

    Args:
        with_images: the images here count; otherwise the label files, and their images are elsewhere.
    """

    def __init__(self, files: YoloFiles, settings: Settings, with_images: bool):
        self.files, self.settings, self.with_images = files, settings, with_images
        self.ledger, self.remark = files.source.ledger, files.source.remark
        self.keys: dict[str, str] = {}  # split → keys of the description that name it

    def named(self) -> dict[str, list[Item]]:
        """The splits that the description of the data set names; empty where it names none.

        Raises:
            DataError: a path that it names is not there.
        """
        found: dict[str, list[Item]] = {}
        entries = self.settings.entries
        labels_alone = not self.with_images and any(map(self.files.is_label, self.files.texts))
        if labels_alone and not any(self._find(one) for ones in entries.values() for one in ones):
            if entries:  # it describes a larger set, whose images are elsewhere
                self.remark(f"{self.settings.file.name} names no folder that is here: splits after the folders")
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
            self.remark(f"{key}: {entry[:120]} is read as {place[0] or '.'}")
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
        if found == [""] and known_split(root) is not None:  # images/val is no other name of a folder called val
            found = []
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

    def _items(self, places: list[tuple[str, bool]]) -> list[Item]:
        if len(places) == 1 and not places[0][1]:
            folder = places[0][0]
            return [Item(path, name_in(folder, path), label) for path, label in self._below(folder)]
        found: list[tuple[str, str | None]] = []
        for path, is_list in places:
            found += self._of_list(path) if is_list else self._below(path)
        return _named(found)

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

    def _once(self, items: list[Item]) -> list[Item]:
        """Each image once, though two lists or keys of one split name it."""
        found: dict[str, Item] = {}
        for item in items:
            if found.setdefault(item.path, item) is not item:
                self.ledger.skip("records", "image named twice in its split", str(self.files.root / item.path))
        return list(found.values())

    def by_folders(self, only: str) -> dict[str, list[Item]]:
        """Splits after the folders that have their names; `only` where none has.

        Beside folders of known names, another one with label files is a split of its own name. Images outside of them,
        and beside a folder called images, are not taken.
        """
        pairs = list(self._below(""))
        words = (*IMAGE_WORDS, "labels")
        if any(part.lower() in words for path, _ in pairs for part in path.split("/")[:-1]):
            pairs = [(path, label) for path, label in pairs
                     if label is not None or any(part.lower() in words for part in path.split("/")[:-1])]  # fmt: skip
        folders = {path: tuple(path.split("/")[:-1]) for path, _ in pairs}
        at = {parts: _split_at(parts, known_split) for parts in folders.values()}
        if not any(at.values()):
            at = {parts: _split_at(parts, _split_in_words) for parts in at}
            if len({split_at[1] for split_at in at.values() if split_at is not None}) < 2:
                at = dict.fromkeys(at, (0, only))
        beside = {parts[: split_at[0]] for parts, split_at in at.items() if split_at is not None}
        with_labels = {folders[path][:i] for path, label in pairs if label for i in range(len(folders[path]) + 1)}
        for parts in (parts for parts, split_at in at.items() if split_at is None):
            at[parts] = next(((i, split_name(parts[i])) for i in range(len(parts)) if parts[:i] in beside
                              and parts[: i + 1] in with_labels and parts[i].lower() not in words), None)  # fmt: skip
        found: dict[str, list[tuple[str, str | None]]] = {}
        for path, label in pairs:
            if (split_at := at[folders[path]]) is not None:
                found.setdefault(split_at[1], []).append((path, label))
        return {split: _named(found[split]) for split in sorted(found, key=lambda name: ORDER.get(name, 1))}


def _named(found: list[tuple[str, str | None]]) -> list[Item]:
    """Images and their label files, with the names in the new folder."""
    names = short_names([path for path, _ in found])
    return [Item(path, name, label) for (path, label), name in zip(found, names, strict=True)]


def _split_at(parts: tuple[str, ...], meaning: Callable[[str], str | None]) -> tuple[int, str] | None:
    """Position and split of the first folder whose name means one."""
    return next(((i, split) for i, part in enumerate(parts) if (split := meaning(part)) is not None), None)


def _split_in_words(folder: str) -> str | None:
    """The split that is one of the words of a folder's name: VisDrone2019-DET-train."""
    return split_of_file(PurePath(f"{folder}.txt"))
