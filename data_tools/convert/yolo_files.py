"""The files of a YOLO folder: its images, the label file of each, and what an entry of `data.yaml` or a list means.

All files are found once; a path is relative to the root of the source, with `/`. The label file of an image has its
name with `.txt`, in `labels` where the image is in `images` (folders in any case), else beside it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from data_tools.convert.image_files import one_form, walk
from data_tools.convert.records import as_number
from data_tools.convert.source_folder import SourceFolder
from data_tools.convert.splits import known_split
from data_tools.image_formats import is_image_name, why_not_opened
from dfine_lib.data.images import DataError

IMAGE_WORDS = ("images", "jpegimages")
CLASS_LISTS = ("classes.txt", "names.txt", "predefined_classes.txt", "labels.txt")
_MOST_LIST = 256 << 20  # bytes of a list of images
_SNIFF = 4096  # bytes that tell a label file from another text


class YoloFiles:
    """All files of a source, and which label file belongs to which image."""

    def __init__(self, source: SourceFolder):
        self.source, self.root = source, source.root
        self.images: dict[str, None] = {}
        self.texts: dict[str, None] = {}
        self.others: list[str] = []  # descriptions of a data set and lists of classes
        self.not_opened: dict[str, str] = {}  # path without ending → why images of that format are not opened
        self.linked: list[str] = []  # linked folders that are not followed
        folders: set[str] = set()
        for below, entry in walk(self.root, source.follow_links):
            path = f"{below}/{entry.name}" if below else entry.name
            ending = posixpath.splitext(entry.name)[1].lower()
            if entry.is_symlink() and os.path.isdir(entry.path):
                self.linked.append(path)
                continue
            folders.add(below)
            if is_image_name(entry.name):
                self.images[path] = None
            elif ending == ".txt":
                self.texts[path] = None
            elif ending in (".yaml", ".yml", ".data", ".names", ".labels"):
                self.others.append(path)
            elif (reason := why_not_opened(entry.name)) is not None:
                self.not_opened[posixpath.splitext(path)[0]] = reason
        self.folders = {"/".join(parts[:i]) for folder in folders for parts in [folder.split("/")]
                        for i in range(1, len(parts) + 1)} | {""}  # fmt: skip
        self._by_key: dict[str, list[str]] = {}
        for path in self.texts:
            self._by_key.setdefault(_folders_folded(path[:-4]), []).append(path)
        self.label_of: dict[str, str] = {}
        self.shared: dict[str, list[str]] = {}  # label file → the images that it would belong to
        self.sharing: set[str] = set()  # those images
        self.paired_otherwise: list[tuple[str, str]] = []  # image, label file of a name in another form
        self._pair()

    def label(self, image: str) -> str | None:
        """The label file at the places where that of an image belongs, whether the image is there or not."""
        for key in _label_keys(image):
            found = self._by_key.get(_folders_folded(key), [])
            exact = [path for path in found if path[:-4] == key] or found
            if len(exact) == 1:
                return exact[0]
            for path in (key + ".txt",) if not found else ():
                if os.path.lexists(self.root / path):  # a pipe or a folder: reading refuses it
                    return path
        return None

    def _pair(self) -> None:
        owners: dict[str, list[str]] = {}
        for image in self.images:
            if (label := self.label(image)) is not None:
                owners.setdefault(label, []).append(image)
        for label, images in owners.items():
            if len(images) == 1:
                self.label_of[images[0]] = label
            else:
                self.shared[label] = images
                self.sharing.update(images)
        self._pair_otherwise([path for path in self.texts if path not in owners])

    def _pair_otherwise(self, labels: list[str]) -> None:
        """Pair names that differ in case, accents or URL-encoding, or that keep the ending: p1.jpg.txt."""
        by_form: dict[str, list[str]] = {}
        for label in labels:
            by_form.setdefault(one_form(unquote(label[:-4])), []).append(label)
        alone = [image for image in self.images if image not in self.label_of and by_form]
        found: dict[str, list[str]] = {}  # label → images
        for image in alone:
            keys = {
                one_form(unquote(form))
                for key in _label_keys(image)
                for form in (key, key + posixpath.splitext(image)[1])
            }
            same = [label for key in keys for label in by_form.get(key, ())]
            if len(same) == 1:
                found.setdefault(same[0], []).append(image)
        for label, images in found.items():
            if len(images) == 1 and images[0] not in self.sharing:
                self.label_of[images[0]] = label
                self.paired_otherwise.append((images[0], label))

    def left_labels(self, taken: set[str]) -> Iterator[tuple[str, str]]:
        """Path and reason of every label file that no taken image has.

        Args:
            taken: label files of the images that are taken.
        """
        owned = set(self.label_of.values())
        for path in self.texts:
            if path in taken:
                continue
            if path in self.shared:
                yield path, "label file of two images"
            elif path in owned:
                yield path, "label file of an image that no split names"
            elif self.is_label(path):
                stem = next((key for key in self.not_opened if path[:-4] in _label_keys(key + ".x")), None)
                yield path, "label file that matches no image" if stem is None else self.not_opened[stem]

    def is_label(self, path: str) -> bool:
        """Whether a text is a label file: its first row begins with five numbers, or it is empty."""
        if posixpath.basename(path).lower() in CLASS_LISTS:
            return False
        try:
            with (self.root / path).open("rb") as stream:
                start = stream.read(_SNIFF)
        except OSError:
            return True  # so that reading it says why
        rows = [row for row in start.decode("utf-8", "replace").lstrip("\ufeff").splitlines() if row.strip()]
        if not rows:
            return not start.strip()
        fields = [field for field in re.split(r"[\s,;]+", rows[0]) if field]
        return len(fields) >= 5 and all(as_number(field) is not None for field in fields[:5])

    def folder(self, paths: Iterable[str]) -> str | None:
        """The first of the paths that is a folder here, in any case."""
        for path in paths:
            if path in self.folders:
                return path
            same = [folder for folder in self.folders if folder.casefold() == path.casefold()]
            if len(same) == 1:
                return same[0]
        return None

    def text(self, paths: Iterable[str]) -> str | None:
        """The first of the paths that is a file with text."""
        return next((path for path in paths if path not in self.images and (self.root / path).is_file()), None)

    def images_below(self, folder: str) -> list[str]:
        """All images in a folder and deeper."""
        start = f"{folder}/" if folder else ""
        return [image for image in self.images if image.startswith(start)]

    def link_of(self, paths: Iterable[str]) -> str | None:
        """The linked folder, not followed, that one of the paths leads into."""
        return next((link for path in paths for link in self.linked if (path + "/").startswith(link + "/")), None)

    def folders_with(self, kind: str) -> str:
        """Folders that hold images, or label files, for a message."""
        files = self.images if kind == "images" else [path for path in self.texts if self.is_label(path)]
        found = sorted({posixpath.dirname(path) or "." for path in files})
        return f"{', '.join(found[:8])}{', …' if len(found) > 8 else ''}" if found else "none"

    def listed(
        self, list_file: str, folders: Iterable[str], is_here: Callable[[str], bool]
    ) -> Iterator[tuple[int, str, str | None]]:
        """Line, row, and path of every image that a list names; the path is None where it is not here.

        Rows are relative to the list, or to one of `folders`. Where they begin with folders that are not here (`data/`,
        or those of another machine), all of them have to begin with the same.

        Args:
            list_file: a text with a path a row.
            folders: relative to the root.
            is_here: whether a path counts as found.

        Raises:
            DataError: rows begin with different folders, so that it is not known whose images these are.
        """
        file, prefix = self.root / list_file, None
        content = self.source.text(file, _MOST_LIST)
        for line, row in enumerate(content.splitlines(), 1):
            if not (row := row.strip().strip("\"'")):
                continue
            path = row.replace("\\", "/")
            found = next((one for one in inside(path, [posixpath.dirname(list_file), *folders], self.root)
                          if is_here(one)), None)  # fmt: skip
            if found is None:
                parts = [part for part in path.split("/") if part not in ("", ".", "..")]
                rests = ((parts[:i], "/".join(parts[i:])) for i in range(1, len(parts)))
                cut = next(((before, rest) for before, rest in rests if is_here(rest)), None)
                if cut is not None:
                    prefix = prefix or cut[0]
                    if prefix != cut[0]:
                        raise DataError(
                            f"{file}, line {line}: {row[:120]!r} is not here, and other rows begin with "
                            f"{'/'.join(prefix)[:80]!r}, which is not here either: it is not known whose image "
                            f"{cut[1][:80]!r} is. Write the rows relative to {self.root}."
                        )
                    found = cut[1]
            yield line, row, found


def inside(path: str, folders: Iterable[str], root: Path) -> list[str]:
    """What a path may mean below the root: relative to each of the folders, or absolute and inside of the root.

    `..` that leads out of the root ends at the root: `../train/images` beside `train/`, as Roboflow writes it.
    """
    if is_absolute(path):
        below = os.path.relpath(path, root.absolute()).replace(os.sep, "/")
        return [] if below == ".." or below.startswith("../") else ["" if below == "." else below]
    found = []
    for folder in folders:
        parts = posixpath.normpath(posixpath.join(folder, path)).split("/")
        while parts and parts[0] in ("..", "."):
            parts.pop(0)
        found.append("/".join(parts))
    return list(dict.fromkeys(found))


def is_absolute(path: str) -> bool:
    """Whether a path, with /, begins at the root of a disk of this or of another machine."""
    return path.startswith("/") or path[1:2] == ":" or "://" in path


def short_names(paths: list[str]) -> list[str]:
    """Names in the new folder, of images that come from several folders.

    Left off are folders called images, labels or as a split, then those that all have in common; unless two images
    would be one then.
    """
    for drop in (lambda part: _is_word(part) or known_split(part) is not None, _is_word):
        cut = [[*(part for part in path.split("/")[:-1] if not drop(part)), path.rpartition("/")[2]] for path in paths]
        common = 0
        while cut and len({tuple(parts[: common + 1]) for parts in cut}) == 1 and len(cut[0]) > common + 1:
            common += 1
        names = ["/".join(parts[common:]) for parts in cut]
        if len({posixpath.splitext(name)[0].casefold() for name in names}) == len(names):
            return names
    return paths


def name_in(folder: str, path: str) -> str:
    """Name in the new folder of an image that comes from one folder: its path below that, without a first `images`."""
    name = path[len(folder) + 1 :] if folder else path
    first, slash, rest = name.partition("/")
    return rest if slash and _is_word(first) else name


def label_place(image: str) -> str:
    """Where the label file of an image belongs."""
    return _label_keys(image)[0] + ".txt"


def _is_word(part: str) -> bool:
    return part.lower() in (*IMAGE_WORDS, "labels")


def _label_keys(image: str) -> list[str]:
    """Where the label file of an image may be, without its ending."""
    parts = posixpath.splitext(image)[0].split("/")
    places = ["/".join(parts)]
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].lower() in IMAGE_WORDS:
            places.insert(0, "/".join([*parts[:i], "labels", *parts[i + 1 :]]))
            break
    return places


def _folders_folded(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder.casefold() + slash + name
