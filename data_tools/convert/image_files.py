"""The image files of a source: which there are, and which one a record means.

An image is what its path below the source's root says. A record finds its image under the name as it is written; else
under the same name in another form (URL-encoded, composed or decomposed accents, another ending), deeper in a
sub-folder where one image alone has that name, or without leading folders that all records have in common. Where
two images, or two records, could be meant, nothing is guessed.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from data_tools.convert.records import ImageRecord, clean_name, inside, leaves
from data_tools.convert.splits import known_split, split_of_folders
from data_tools.convert.tables import read_sizes
from data_tools.image_formats import is_image_name, why_not_opened
from dfine_lib.data.images import DataError

MOST_FILES = 20_000_000
_IMAGE_FOLDERS = ("images", "jpegimages", "images/default")
OTHER_FORM = "file name in another form (URL-encoded, in other case, or accents composed otherwise)"
DEEPER = "image found in a sub-folder"
SHORTER = "leading folders left off the file name"
OWN_NAME = "the annotation file's own name used, not the other name written in it"
NAME_INSIDE = "no image has the annotation file's own name: the name written in it used"


class Found(NamedTuple):
    """An image that belongs to a record."""

    path: Path
    name: str  # what it is called in the new folder, with /
    how: str | None = None  # where the record's name was not that of the file: what was done about it


class ImageFiles:
    """All image files of the user's own folder, or of the source.

    Args:
        root: of the source.
        images: the user's own folder of images, in place of the source.
        sizes: file with the sizes of images that are not at hand.
        follow_links: enter linked folders, and read files that links lead to.
    """

    def __init__(self, root: Path, images: Path | None, sizes: Path | None, follow_links: bool):
        if images is not None and not images.is_dir():
            raise DataError(f"--images {images}: no such folder.")
        self.home, self.named, self.follow_links = images or root, images is not None, follow_links
        self.sizes = {} if sizes is None else read_sizes(sizes)
        self.files: dict[str, bool] = {}  # path below home, with / → whether a record took it
        self.not_opened: dict[str, str] = {}  # the same → why images of that format are not opened here
        self.linked_folders: list[str] = []
        self.folders: set[str] = {""}
        self._scan()
        self.expected = self.named or bool(self.files or self.not_opened or self.linked_folders)
        self._by_name: dict[str, list[str]] = {}
        self._by_form: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for name in self.files:
            self._by_name.setdefault(one_form(name.rpartition("/")[2]), []).append(name)
            self._by_form.setdefault(one_form(name), []).append(name)
            self._by_stem.setdefault(one_form(_stem(name)), []).append(name)
        self._usual: dict[str, list[str]] = {}
        self._prefix: dict[str, str] = {}  # by split: leading folders that the records' names have and the files lack

    def _scan(self) -> None:
        for folder, entry in walk(self.home, self.follow_links):
            name = f"{folder}/{entry.name}" if folder else entry.name
            while folder not in self.folders:  # and those above it, which may hold nothing but folders
                self.folders.add(folder)
                folder = folder.rpartition("/")[0]
            if _is(entry.is_dir):  # only linked folders that are not followed come here
                self.linked_folders.append(name)
            elif entry.is_symlink() and not _is(entry.is_file):
                self.not_opened.update({name: "a broken link"} if is_image_name(entry.name) else {})
            elif is_image_name(entry.name):
                self.files[name] = False
            elif (reason := why_not_opened(entry.name)) is not None:
                self.not_opened[name] = reason
            if len(self.files) > MOST_FILES:
                raise DataError(f"{self.home}: more than {MOST_FILES:,} images.")

    def find(self, record: ImageRecord) -> Found | str:
        """The image of a record, or the reason why there is none."""
        if record.path is not None:
            return self._take(record.path, record.file_name)
        for own in record.own:
            if (below := self._below(own)) is not None and len(same := self._with_ending(below)) == 1:
                return self._take(same[0], _stem(record.file_name) + same[0][len(_stem(same[0])) :])
        names = [clean_name(name, record.location, record.may_be_path and not self.named)
                 for name in (record.file_name, *record.spare_names)
                 if not (self.named and record.may_be_path and leaves(name.replace("\\", "/")))]  # fmt: skip
        bases = [[below] for folder in record.folders if (below := self._below(folder)) is not None]
        bases += self._usual_folders(record.split)
        ambiguous = None
        for name in names:
            found = self._under(bases, name) or self._deeper(record.split, name)
            if isinstance(found, list):
                ambiguous = found
            elif found is not None:
                return found
        if ambiguous is not None:
            return f"several images of that name ({', '.join(ambiguous[:3])})"
        found = self._shorter(record, bases)
        if found is not None:
            return found
        return "image missing" if (reason := self._closed(names)) is None else reason

    def _under(self, bases: list[list[str]], name: str) -> Found | list[str] | None:
        """The image of exactly this path; then in another form; then with another ending.

        Args:
            bases: groups of folders, those of the first group before those of the second.
            name: relative to one of them.

        Returns:
            The image; several paths, where folders of one group hold one each; None.
        """
        for group in bases:
            if len(hits := [path for base in group if (path := _join(base, name)) in self.files]) == 1:
                return self._take(hits[0], name)
            if hits:
                return hits
        for path in (_join(base, name) for group in bases for base in group):
            same = self._by_form.get(one_form(path)) or self._by_form.get(one_form(unquote(path)), [])
            if len(same) == 1:
                return self._take(same[0], _rest(same[0], path, name), OTHER_FORM)
            same = self._with_ending(path) or self._with_ending(unquote(path))
            if len(same) == 1:
                return self._take(same[0], _rest(same[0], path, name))
            if same:
                return same
            if not is_image_name(path) and path not in self.not_opened and (self.home / path).is_file():
                return self._take(path, name)
        return None

    def _with_ending(self, path: str) -> list[str]:
        """Images of this path with any ending; with its own, where that is there."""
        stem = _stem(path) if is_image_name(path) or why_not_opened(path) else path
        found = self._by_stem.get(one_form(stem), [])
        return [path] if path in found else [one for one in found if _stem(one) == stem] or found

    def _deeper(self, split: str, name: str) -> Found | list[str] | None:
        """The one image in a sub-folder whose path ends as the name does; all of them, where there are several.

        Those in a folder of another split do not count.
        """
        tail = "/" + one_form(unquote(name))
        last = one_form(name.rpartition("/")[2])
        same = [path for path in self._by_name.get(last) or self._by_name.get(one_form(unquote(last)), [])
                if ("/" + one_form(path)).endswith(tail)
                and split_of_folders(PurePosixPath(path).parts[:-1]) in (None, known_split(split))]  # fmt: skip
        same = [path for path in same if ("/" + path).endswith("/" + name)] or same
        if len(same) == 1:
            return self._take(same[0], name if last in self._by_name else unquote(name), DEEPER)
        return same or None

    def _shorter(self, record: ImageRecord, bases: list[list[str]]) -> Found | None:
        """The image under the record's name without its leading folders, the same folders for all records.

        Raises:
            DataError: other records begin with other folders, so that it is not known whose images these are.
        """
        name = record.file_name.replace("\\", "/")
        foreign = leaves(name)
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        for i in range(0 if foreign else 1, len(parts)):  # one that leaves its folder is without `/` or `..` already
            if leaves(rest := "/".join(parts[i:])):
                continue
            found = self._under(bases, clean_name(rest, record.location))
            if not isinstance(found, Found):
                continue
            prefix = "/".join(parts[:i])
            known = prefix if foreign else self._prefix.setdefault(record.split, prefix)
            if known != prefix:
                raise DataError(
                    f"{record.location}: image {name[:80]!r} is not in {self.home}, which has {found.name!r}; other "
                    f"records begin with {known[:80]!r}, which is not there either, so it is not known whose image "
                    f"that is. Give --images a folder that holds {parts[0][:80]!r} and {known.split('/')[0][:80]!r}."
                )
            return found._replace(how=SHORTER)
        return None

    def _closed(self, names: list[str]) -> str | None:
        stems = {_stem(name.rpartition("/")[2]) for name in names}
        for path, reason in self.not_opened.items():
            if _stem(path.rpartition("/")[2]) in stems:
                return reason
        return None

    def _usual_folders(self, split: str) -> list[list[str]]:
        """Folders named as the split, and `images` in them; folders without a split; the root."""
        if split not in self._usual:
            own = known_split(split) or split
            named = [folder for folder in self.folders if self._is_of(folder.split("/"), own)]
            plain = [folder for folder in self.folders if folder.lower() in _IMAGE_FOLDERS]
            groups = [sorted(named), sorted(plain), [""]]
            self._usual[split] = [group for group in groups if group]
        return self._usual[split]

    def _is_of(self, parts: list[str], split: str) -> bool:
        last = parts[-2] if len(parts) > 1 and parts[-1].lower() in _IMAGE_FOLDERS else parts[-1]
        return (known_split(last) or last) == split

    def _below(self, path: Path) -> str | None:
        """A path with / relative to home; None outside of it."""
        try:
            below = path.relative_to(self.home).as_posix()
        except ValueError:
            return None
        return "" if below == "." else below

    def _take(self, path: str | Path, name: str, how: str | None = None) -> Found:
        file = self.home / path
        inside(file, self.home, self.follow_links)
        return Found(file, name, how)

    def mark(self, path: Path) -> bool:
        """Note that a record took an image, or left it out for a reason; returns whether it is one of `files`."""
        below = self._below(path)
        if below not in self.files:
            return False
        self.files[below] = True
        return True

    def left(self) -> Iterator[tuple[str, str]]:
        """Path and reason of every image file that no record took."""
        yield from ((str(self.home / name), reason) for name, reason in self.not_opened.items())
        yield from ((str(self.home / name), "no record names it") for name, taken in self.files.items() if not taken)

    def size(self, record: ImageRecord) -> tuple[int, int]:
        """Width and height where the image is not at hand, from the record or from the file of sizes.

        Raises:
            DataError: they are not known.
        """
        if record.width and record.height:
            return record.width, record.height
        stem = _stem(record.file_name.rpartition("/")[2])
        if stem not in self.sizes:
            raise DataError(
                f"{record.location}: the size of {record.file_name!r} is not known. Name the folder of the images with "
                "--images, or a file with their sizes with --sizes."
            )
        return self.sizes[stem][1:]


def walk(home: Path, follow_links: bool) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Folder below home and entry of every file, sorted folder by folder; hidden ones are passed over.

    Linked folders come as entries where they are not followed; followed, each folder is entered once.
    """
    waiting, entered = [("", home)], {os.path.realpath(home)}
    while waiting:
        below, folder = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        inner = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is(entry.is_dir):
                if entry.is_symlink() or entry.is_file():  # no pipe, which would be waited for
                    yield below, entry
            elif entry.is_symlink() and not follow_links:
                yield below, entry
            else:
                true = os.path.realpath(entry.path)
                if true not in entered:
                    entered.add(true)
                    inner.append((f"{below}/{entry.name}" if below else entry.name, Path(entry.path)))
        waiting += reversed(inner)


def _is(check: Callable[[], bool]) -> bool:
    """A check of a directory entry; False where its link leads in a circle."""
    try:
        return check()
    except OSError:
        return False


def one_form(name: str) -> str:
    """One form for names that differ in case, in composed or decomposed accents, or in the slash between folders."""
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).casefold().replace("\\", "/")


def _stem(name: str) -> str:
    """The path without its ending."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


def _join(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def _rest(file: str, path: str, name: str) -> str:
    """A file's path without the folder in front of the name that `path` ends with."""
    return file.removeprefix(path[: len(path) - len(name)]).replace("\\", "/")


def whose_name(record: ImageRecord, path: Path) -> str:
    """Which name led to the image, where an annotation file's own name and the name in it are not the same."""
    stem = _name_stem(path.name)
    if stem not in (_name_stem(record.own[0].name), _name_stem(record.own[0].name + ".")):
        return NAME_INSIDE
    return OWN_NAME if record.name_inside and _name_stem(record.name_inside) != stem else ""


def _name_stem(name: str) -> str:
    """The last part without the ending of an image, in one form."""
    last = unicodedata.normalize("NFC", unquote(name.replace("\\", "/").rpartition("/")[2]))
    return last.rpartition(".")[0] if last.endswith(".") or is_image_name(last) else last
