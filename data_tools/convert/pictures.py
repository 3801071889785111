"""Where a record's picture lies, how large it is, and bringing it into the new folder. No picture is decoded."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from pathlib import Path

from PIL import Image

from data_tools.convert.records import PICTURES, Picture, clean_name, files_below, inside
from data_tools.convert.tables import read_sizes
from dfine_lib.data.images import DataError, upright_size

_NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


class Pictures:
    """Looks for pictures in the user's own folder, or in the usual places of the data set and nowhere else."""

    def __init__(self, root: Path, images: Path | None, sizes: Path | None, follow_links: bool):
        if images is not None and not images.is_dir():
            raise DataError(f"--images {images}: no such folder.")
        self.root, self.images, self.follow_links = root, images, follow_links
        self.sizes = {} if sizes is None else read_sizes(sizes)
        self.expected = images is not None or next(files_below(root, PICTURES), None) is not None
        self._folders: dict[str, list[Path]] = {}
        self._endings: dict[Path, dict[str, str]] = {}

    def tried(self) -> str:
        """For the message when there is none."""
        if self.images is not None:
            return f"Is {self.images} the folder of the pictures?"
        return "Name the folder of the pictures with --images." if self.expected else ""

    def find(self, picture: Picture) -> tuple[Path | None, str | None]:
        """The picture's file, or why the record is left out; neither where annotations alone are converted.

        Sets `picture.file_name` to the name that was found, kept inside its folder.
        """
        picture.file_name = clean_name(picture.file_name, picture.place, picture.may_be_path and self.images is None)
        if not self.expected:
            if picture.file_name.rpartition(".")[0] in self.sizes:
                picture.file_name = self.sizes[picture.file_name.rpartition(".")[0]][0]
            return None, None
        folders = self._usual(picture.split)
        if self.images is None:
            folders = [folder for folder in picture.folders if folder.is_relative_to(self.root)] + folders
        for name in (picture.file_name, *picture.spare_names):
            name = clean_name(name, picture.place)
            for folder in folders:
                if (found := self._look(folder, name)) is not None:
                    path, actual = found
                    inside(path, self.images or self.root, self.follow_links)
                    picture.file_name = actual
                    return path, None
        return None, "picture missing"

    def _usual(self, split: str) -> list[Path]:
        if split not in self._folders:
            names = [split, "valid", "validation"] if split == "val" else [split]
            if self.images is not None:
                homes = [self.images]
            else:
                homes = [self.root, *(self.root / name for name in ("JPEGImages", "Images", "images"))]
            places = [home / part for home in homes for name in names
                      for part in (f"images/{name}", name, f"{name}2017", f"{name}/images")]  # fmt: skip
            self._folders[split] = [folder for folder in (*places, *homes[::-1]) if folder.is_dir()]
        return self._folders[split]

    def _look(self, folder: Path, name: str) -> tuple[Path, str] | None:
        """The file under its whole path, or what is left of it without its first folders; any ending of a picture."""
        parts = name.split("/")
        for i in range(len(parts)):
            path = folder.joinpath(*parts[i:])
            if path.is_file():
                return path, name
        for i in range(len(parts)):
            path = folder.joinpath(*parts[i:])
            if (ending := self._ending(path)) is not None:
                stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in PICTURES else name
                found = path.with_name(f"{Path(stem).name}{ending}")
                if found.is_file():  # no pipe, which would be waited for
                    return found, stem + ending
        return None

    def _ending(self, path: Path) -> str | None:
        """The ending under which a picture of this name lies in its folder."""
        if path.parent not in self._endings:
            listed = {}
            if path.parent.is_dir():
                for entry in sorted(os.listdir(path.parent)):
                    stem, point, ending = entry.rpartition(".")
                    if point and f".{ending.lower()}" in PICTURES:
                        listed.setdefault(stem, f".{ending}")
            if len(self._endings) > 1000:
                self._endings.clear()
            self._endings[path.parent] = listed
        listed = self._endings[path.parent]
        stem = path.name[: -len(path.suffix)] if path.suffix.lower() in PICTURES else path.name
        return listed.get(stem)

    def settle_size(self, picture: Picture, path: Path | None) -> str | None:
        """Give the picture its true size; says what was told otherwise.

        Raises:
            DataError: the size is not known, or the picture is a bomb (more pixels than can be decoded).
        """
        told = picture.width, picture.height
        if path is not None:
            picture.width, picture.height = header_size(path)
            if told != (picture.width, picture.height) and None not in told:
                return f"told {told[0]} x {told[1]}, is {picture.width} x {picture.height}"
            return None
        if None in told:
            stem = picture.file_name.rpartition("/")[2].rpartition(".")[0]
            if stem not in self.sizes:
                raise DataError(
                    f"{picture.place}: the size of {picture.file_name!r} is not known. Name the folder of the pictures "
                    "with --images, or a file with their sizes with --sizes."
                )
            _, picture.width, picture.height = self.sizes[stem]
        return None


def bring(path: Path, target: Path, how: str) -> None:
    """A hard link at `target` where the disk has them and `how` is link, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    true = path.resolve()
    if how == "link":
        try:
            os.link(true, target)
            return
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
    shutil.copyfile(true, target)


def header_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels once upright, from the header.

    Raises:
        DataError: more pixels than can be decoded safely.
        UnreadablePicture: no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return upright_size(image)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: refused: {error} Shrink it or remove it.") from error
    except Exception as error:  # PIL raises nearly anything on a damaged file
        raise UnreadablePicture(str(error)[:200]) from error


class UnreadablePicture(Exception):
    """Left out and listed; never leaves this package."""
