"""Where images come from: files, folders, patterns, arrays, lists of them; videos, cameras and streams."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np
from torch import Tensor

from data_tools.image_formats import is_image_name, why_not_opened
from data_tools.ledger import Ledger
from dfine_tools.deploy.images import SourceError, as_image, read_first_frame

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp",
    ".ogv",
)  # fmt: skip
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srtp", "srt", "udp", "tcp", "mms", "mmsh")  # schemes of streams
UNREADABLE = "unreadable"  # reason in the ledger of a file that is named like an image and cannot be decoded


class NoImages(SourceError):
    """A folder, pattern or list that was found, and not one image in it that can be read."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image on its way to the detector."""

    image: Tensor  # uint8 [3, H, W], RGB, upright
    name: str  # what to call it: file name below the source's folder, or "frame 12"
    path: Path | None = None  # the image's file, where it has one of its own
    number: int | None = None  # of a video's frames, from 0
    time_s: float | None = None  # since the video began
    in_file: int = 1  # frames that the image's file holds (GIF, MPO, TIFF, WebP); this is the first

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[2], self.image.shape[1]


@dataclass(frozen=True)
class ImageSource:
    """Images that are known beforehand, to be read in any order; and what was found beside them and is left out."""

    items: tuple[Any, ...]  # paths, arrays, tensors, PIL images
    root: Path | None = None  # folder that all paths lie in
    left_out: tuple[tuple[str, Path], ...] = ()  # reason and path

    def __len__(self) -> int:
        return len(self.items)

    @property
    def kind(self) -> str:
        """What the ledger counts: `files`, or `images` where they came as arrays."""
        return "files" if any(isinstance(item, str | Path) for item in self.items) or self.left_out else "images"

    def ledger(self, listed: Callable[[str, str, str], None] | None = None) -> Ledger:
        """A ledger of this source: everything in it is found, and nothing is taken yet.

        Args:
            listed: as for `Ledger`.
        """
        ledger = Ledger(listed)
        ledger.found(self.kind, len(self.items) + len(self.left_out))
        for reason, path in self.left_out:
            ledger.left_out(self.kind, reason, path)
        return ledger

    def read(self, number: int) -> Frame:
        """One of them.

        Raises:
            SourceError: missing, damaged, or no image.
        """
        item = self.items[number]
        if isinstance(item, str | Path):
            path = Path(item)
            below = self.root is not None and path.is_relative_to(self.root)
            pixels, frames = read_first_frame(path)
            return Frame(pixels, path.relative_to(self.root).as_posix() if below else path.name, path, in_file=frames)
        try:
            return Frame(as_image(item), f"image {number}")
        except SourceError as error:
            raise SourceError(f"image {number}: {error}") from error


@dataclass(frozen=True)
class VideoSource:
    """A video file, an address, or a camera's number; frames come one after the other."""

    location: str | int

    @property
    def remote(self) -> bool:
        """Whether it is an address, so that bytes may fail to come."""
        return isinstance(self.location, str) and "://" in self.location

    @property
    def live(self) -> bool | None:
        """Whether frames come in their own time, and without end; None: `VideoReader.live` knows, once it is open."""
        if isinstance(self.location, int) or self.location.split("://")[0].lower() in _LIVE:
            return True  # of a recording behind rtsp://, too, frames come in their own time
        return None if self.remote else False

    @property
    def name(self) -> str:
        """Short, fit for a file name."""
        if isinstance(self.location, int):
            return f"camera{self.location}"
        return re.sub(r"[^\w.-]+", "_", self.location.split("?")[0].rstrip("/").rsplit("/", 1)[-1]) or "stream"


def find_source(source: Any, *, follow_links: bool = False) -> ImageSource | VideoSource:
    """What a source means. No image is read yet.

    Of a folder, its sub-folders included, every file is an item of the result or in its `left_out` with the reason.
    Hidden files and folders (`.name`) are left out, and links that lead out of the folder.

    Args:
        source: an image file, a folder of images, a pattern such as `photos/*.jpg` (`**` goes into sub-folders), a
            video file, an address (`rtsp://`, `http://`, …), a camera's number; a PIL image, an array `[H, W, 3]` (RGB)
            or `[H, W]`, a tensor `[3, H, W]`; or a list of files and images, or what gives such a list, as
            `folder.glob("*.jpg")` does: it is run through first. What this function returned is returned as it is.
        follow_links: also take files and enter folders that links in a folder lead to, outside of it.

    Raises:
        SourceError: there is no such thing, or nothing in it.
    """
    if isinstance(source, ImageSource | VideoSource):
        return source
    if isinstance(source, bool) or source is None:
        raise SourceError(f"{source!r} is no source of images")
    if isinstance(source, int):
        return VideoSource(source)
    if isinstance(source, str | Path):
        return _of_words(str(source), follow_links)
    if isinstance(source, np.ndarray | Tensor) and source.ndim == 4:
        source = list(source)
    if isinstance(source, bytes | bytearray):
        raise SourceError("bytes are no source of images; give PIL.Image.open(io.BytesIO(content)).")
    if isinstance(source, Iterator) and not hasattr(source, "read"):  # an open file gives lines
        source = list(source)
    if isinstance(source, Sequence):
        items = tuple(source)
        if not items:
            raise SourceError("the list of images is empty")
        for item in items:
            if isinstance(item, str | Path) and (Path(item).is_dir() or Path(item).suffix.lower() in VIDEO_SUFFIXES):
                raise SourceError(f"{item}: a list holds single images; give folders and videos one at a time.")
        return ImageSource(items)
    return ImageSource((source,))


def _of_words(words: str, follow_links: bool) -> ImageSource | VideoSource:
    if words.startswith("file://"):
        words = url2pathname(words.removeprefix("file://").removeprefix("localhost"))
    path = Path(words)
    if not words:
        raise SourceError("the source is empty; name an image, a folder, a pattern, a video or a camera.")
    if "://" in words:
        if is_image_name(words.split("?")[0]):
            raise SourceError(f"{words}: images are not downloaded, only streams are opened. Download it first.")
        return VideoSource(words)
    if path.is_dir():
        return _of_folder(path, follow_links)
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return VideoSource(words)
        return ImageSource((path,), path.parent)
    if words.isdigit():
        return VideoSource(int(words))
    if glob.has_magic(words):
        found = [Path(f) for f in glob.glob(words, recursive=True)]
        sorted_out = [(_why_left_out(f), f) for f in found if not f.is_dir()]
        return _usable(words, _before_magic(path), sorted_out, "no file matches. (** enters sub-folders; use quotes.)")
    raise SourceError(f"{words}: no such file or folder.")


def _of_folder(folder: Path, follow_links: bool) -> ImageSource:
    """Every file below the folder: its reason for being left out, None for images."""
    found: list[tuple[str | None, Path]] = []
    root = os.path.realpath(folder)
    entered = {root}

    def cannot_be_listed(error: OSError) -> None:
        found.append((f"a folder that cannot be listed ({error.strerror})", Path(error.filename)))

    for where, folders, names in os.walk(folder, onerror=cannot_be_listed, followlinks=True):
        enter = []
        for name in folders:
            path = Path(where, name)
            if reason := _why_not_entered(path, root, entered, follow_links):
                found.append((reason, path))
            else:
                enter.append(name)
        folders[:] = enter
        for name in names:
            path = Path(where, name)
            leads_out = os.path.islink(path) and not _is_below(os.path.realpath(path), root)
            linked = leads_out and not follow_links and os.path.exists(path)
            found.append((_LINK if linked else _why_left_out(path), path))
    return _usable(folder, folder, found, "the folder is empty.")


_LINK = "a link, followed with --follow-links only"


def _why_not_entered(path: Path, root: str, entered: set[str], follow_links: bool) -> str | None:
    if path.name.startswith("."):
        return "a hidden folder, not entered"
    linked = os.path.islink(path)
    if not linked and not follow_links:
        return None
    target = os.path.realpath(path)
    if target in entered or (linked and _is_below(target, root)):
        return "a link to a folder that is read anyway"
    if linked and not follow_links:
        return _LINK
    entered.add(target)
    return None


def _is_below(path: str, root: str) -> bool:
    """Whether a path lies in the folder, and in no hidden one there."""
    inside = Path(path).is_relative_to(root)
    return inside and not any(part.startswith(".") for part in Path(path).relative_to(root).parts)


def _why_left_out(path: Path) -> str | None:
    """Why a file of a folder is not taken; None: it is."""
    if path.name.startswith("."):
        return "a hidden file"
    if not os.path.isfile(path):  # a pipe would be waited for
        return "not a regular file" if os.path.exists(path) else "a link that leads nowhere"
    if is_image_name(path):
        return None
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "a video, taken by its own name only"
    return why_not_opened(path) or "not an image by the ending of its name"


def _usable(where: str | Path, root: Path, found: list[tuple[str | None, Path]], nothing: str) -> ImageSource:
    items = sorted((path for reason, path in found if reason is None), key=_natural)
    left_out = sorted(
        ((reason, path) for reason, path in found if reason is not None), key=lambda one: _natural(one[1])
    )
    source = ImageSource(tuple(items), root, tuple(left_out))
    if not found:
        raise NoImages(f"{where}: no image there: {nothing}")
    if not items:
        raise NoImages(f"{where}: no image there that can be opened: {source.ledger().summary(source.kind)}.")
    return source


def _before_magic(path: Path) -> Path:
    for parent in (path, *path.parents):
        if not glob.has_magic(str(parent)):
            return parent
    return Path()


def _natural(path: Path) -> list[Any]:
    """Sort key by which frame2 comes before frame10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", str(path)) if part]
