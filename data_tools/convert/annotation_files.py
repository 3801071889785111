"""Annotation files in a folder: which there are, and, where each is that of one image, what their paths say.

Such a file belongs to the image of its own name: beside it, or where a folder of annotations (`Annotations`, `labels`)
is exchanged for one of images (`JPEGImages`, `images`). The name in it is used where there is no such image.
"""

from __future__ import annotations

import itertools
import os
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.convert.records import NothingLeft, files_below, leaves
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import known_split, split_of_folders
from data_tools.image_formats import is_image_name
from dfine_lib.data.images import DataError

ANNOTATION_FOLDERS = {
    "annotations", "annotation", "annots", "annot", "anno", "annos", "xml", "xmls", "json", "jsons", "labels", "label",
    "labelme",
}  # fmt: skip
IMAGE_FOLDERS = {"jpegimages", "images", "image", "imgs", "img"}


def annotation_files(source: SourceFolder, suffix: str, what: str) -> list[Path]:
    """The files with an ending in a folder, sorted, or the file itself; archives, which are not read, are counted.

    Args:
        source: folder or file.
        suffix: in lower case, with its point.
        what: what such files are, for messages.

    Raises:
        DataError: there are none.
    """
    folder = source.path
    if folder.is_file():
        if zipfile.is_zipfile(folder):
            raise DataError(f"{folder}: a zip archive, which is not read. Unzip it, and name the folder.")
        return [folder]
    found, archives = (list(files_below(folder, (ending,), follow_links=source.follow_links))
                       for ending in (suffix, ".zip"))  # fmt: skip
    if not found:
        linked = [] if source.follow_links else sorted(entry.name for entry in os.scandir(folder)
                                                       if entry.is_symlink() and os.path.isdir(entry.path))  # fmt: skip
        hint = f" {archives[0].name} is an archive: unzip it, and name the folder." if archives else (
            f" The linked folder {linked[0]!r} was not entered: --follow-links enters it." if linked else ""
        )  # fmt: skip
        raise NothingLeft(f"{folder}: no {what} ({suffix}) here.{hint}")
    for file in archives:
        source.ledger.skip(KIND, "a zip archive, which is not read (unzip it)", file)
    return found


class Entry(NamedTuple):
    """An annotation file of one image."""

    file: Path
    split: str
    name: str  # of its image in the new folder: sub-folders and stem, with /


def kept_folders(folders: Iterable[str], split: str | None = None) -> list[str]:
    """Folders that tell images apart: without those that every such set has, and those of the split."""
    return [part for part in folders if part.lower() not in ANNOTATION_FOLDERS | IMAGE_FOLDERS
            and (split is None or (known_split(part) or part) != split)]  # fmt: skip


def entries(found: Iterable[tuple[Path, str, Path]], root: Path) -> list[Entry]:
    """Entries of (file, split, folder that its name counts from).

    Folders that all have in common are no part of a name; it gets longer where it would occur twice in a split.
    """
    found = list(found)
    short = [kept_folders(file.relative_to(home).parts[:-1], split) for file, split, home in found]
    common = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, zip(*short, strict=False)))
    names = ["/".join([*folders[common:], file.stem]) for (file, *_), folders in zip(found, short, strict=True)]
    for longer in (lambda below: "/".join([*kept_folders(below.parts[:-1]), below.stem]),
                   lambda below: below.with_suffix("").as_posix()):  # fmt: skip
        count = Counter((split, name) for (_, split, _), name in zip(found, names, strict=True))
        names = [name if count[split, name] == 1 else longer(file.relative_to(root))
                 for (file, split, _), name in zip(found, names, strict=True)]  # fmt: skip
    return [Entry(file, split, name) for (file, split, _), name in zip(found, names, strict=True)]


def by_folders(files: list[Path], source: SourceFolder) -> list[tuple[Path, str, Path]]:
    """Every file with the split that a folder of it says, and the root."""
    root = source.root
    return [(file, split_of_folders(file.relative_to(root).parts[:-1]) or source.split, root) for file in files]


class ImageLocations:
    """Where the images of annotation files lie, by the files' own paths.

    Args:
        found: all annotation files of the source.
        root: of the source.
    """

    def __init__(self, found: list[Entry], root: Path):
        self.root = root
        self._stems = Counter(entry.file.stem for entry in found)
        self._names = {entry.name for entry in found}
        self._folders: dict[Path, list[Path]] = {}

    def of(self, entry: Entry, said: str) -> dict[str, Any]:
        """`file_name`, `own`, `folders`, `spare_names` and `name_inside` of the record.

        Args:
            entry: whose.
            said: the image's name written in the file; may be empty, or a path of another machine.
        """
        file, _, name = entry
        said = "/".join(part for part in said.replace("\\", "/").split("/") if part != ".")
        inner = said.rpartition("/")[2] if leaves(said) else said  # folders of another machine say nothing here
        stem, ending = os.path.splitext(inner.rpartition("/")[2]) if is_image_name(inner) else (inner, ".jpg")
        above, _, _ = name.rpartition("/")
        folders = self._with_images(file.parent)
        spare = []
        if inner:
            within = f"{above}/{inner}" if above else inner
            if (own := within.removesuffix(ending)) == name or own not in self._names:  # else another file's image
                spare.append(within)
            others = self._stems[stem] - (stem == file.stem)
            if above and not folders and not others:  # the images lie in no folders as their annotations do
                spare.append(inner)
        bases = [_without(folder, above.split("/")) if above else folder for folder in folders]
        return {
            "file_name": name if is_image_name(name) else name + ending,
            "own": tuple(folder / file.stem for folder in folders or [file.parent]),
            "folders": tuple(bases), "spare_names": tuple(spare), "name_inside": inner,
        }  # fmt: skip

    def _with_images(self, folder: Path) -> list[Path]:
        """The annotations' own folder and those of images that stand for it, as far as images are in them."""
        if folder not in self._folders:
            places = [folder]
            parts = folder.relative_to(self.root).parts
            for i, part in enumerate(parts):
                if part.lower() in ANNOTATION_FOLDERS:
                    before, after = self.root.joinpath(*parts[:i]), parts[i + 1 :]
                    siblings = sorted(Path(one.path) for one in os.scandir(before) if one.name.lower() in IMAGE_FOLDERS)
                    places += [place.joinpath(*after) for place in [*siblings, before]]
            self._folders[folder] = [place for place in dict.fromkeys(places) if _has_images(place)]
        return self._folders[folder]


def _has_images(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as listing:
        return any(is_image_name(entry.name) for entry in listing)


def _without(folder: Path, last: list[str]) -> Path:
    """The folder above these last parts, where it ends in them."""
    return folder.parents[len(last) - 1] if list(folder.parts[-len(last) :]) == last else folder
