"""Where pictures come from: files, folders, patterns, arrays, lists of them; videos, cameras and streams."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dfine_lib.data.images import decode_image, to_tensor, upright_rgb
from dfine_lib.errors import DfineError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp",
    ".ogv",
)  # fmt: skip


class SourceError(DfineError):
    """A source that gives no pictures; the message names it, and the way out."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture on its way to the detector."""

    image: Tensor  # uint8 [3, H, W], RGB, upright
    name: str  # what to call it: file name, or "frame 12"
    path: Path | None = None  # the picture's file, where it has one of its own
    number: int | None = None  # of a video's frames, from 0
    time_s: float | None = None  # since the video began

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[2], self.image.shape[1]


@dataclass(frozen=True)
class ImageSource:
    """Pictures that are known beforehand, to be read in any order."""

    items: tuple[Any, ...]  # paths, arrays, tensors, PIL pictures
    root: Path | None = None  # folder that all paths lie in

    def __len__(self) -> int:
        return len(self.items)

    def read(self, number: int) -> Frame:
        """One of them.

        Raises:
            SourceError: missing, damaged, or no picture.
        """
        item = self.items[number]
        if isinstance(item, str | Path):
            return Frame(read_picture(item), Path(item).name, Path(item))
        try:
            return Frame(as_picture(item), f"image {number}")
        except SourceError as error:
            raise SourceError(f"image {number}: {error}") from error


@dataclass(frozen=True)
class VideoSource:
    """A video file, a stream's address, or a camera's number; frames come one after the other."""

    location: str | int

    @property
    def live(self) -> bool:
        """Whether frames come in their own time, and without end: a camera or a stream."""
        return isinstance(self.location, int) or "://" in self.location

    @property
    def name(self) -> str:
        """Short, fit for a file name."""
        if isinstance(self.location, int):
            return f"camera{self.location}"
        return re.sub(r"[^\w.-]+", "_", self.location.split("?")[0].rstrip("/").rsplit("/", 1)[-1]) or "stream"


def find_source(source: Any) -> ImageSource | VideoSource:
    """What a source means. No picture is read yet.

    Args:
        source: an image file, a folder of images, a pattern such as `photos/*.jpg` (`**` goes into sub-folders), a
            video file, a stream's address (`rtsp://`, `http://`, …), a camera's number; a PIL picture, an array
            `[H, W, 3]` (RGB) or `[H, W]`, a tensor `[3, H, W]`; or a list of files and pictures, or what gives such
            a list, as `folder.glob("*.jpg")` does: it is run through first.

    Raises:
        SourceError: there is no such thing, or nothing in it.
    """
    if isinstance(source, bool) or source is None:
        raise SourceError(f"{source!r} is no source of pictures")
    if isinstance(source, int):
        return VideoSource(source)
    if isinstance(source, str | Path):
        return _of_words(str(source))
    if isinstance(source, np.ndarray | Tensor) and source.ndim == 4:
        source = list(source)
    if isinstance(source, bytes | bytearray):
        raise SourceError("bytes are no source of pictures; give PIL.Image.open(io.BytesIO(content)).")
    if isinstance(source, Iterator) and not hasattr(source, "read"):  # an open file gives lines
        source = list(source)
    if isinstance(source, Sequence):
        items = tuple(source)
        if not items:
            raise SourceError("the list of pictures is empty")
        for item in items:
            if isinstance(item, str | Path) and (Path(item).is_dir() or Path(item).suffix.lower() in VIDEO_SUFFIXES):
                raise SourceError(f"{item}: a list holds single pictures; give folders and videos one at a time.")
        return ImageSource(items)
    return ImageSource((source,))


def _of_words(words: str) -> ImageSource | VideoSource:
    if words.startswith("file://"):
        words = url2pathname(words.removeprefix("file://").removeprefix("localhost"))
    path = Path(words)
    if not words:
        raise SourceError("the source is empty; name a picture, a folder, a pattern, a video or a camera.")
    if "://" in words:
        if Path(words.split("?")[0]).suffix.lower() in IMAGE_SUFFIXES:
            raise SourceError(f"{words}: pictures are not downloaded, only streams are opened. Download it first.")
        return VideoSource(words)
    if path.is_dir():
        files = sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
        if not files:
            raise SourceError(f"{path}: {_what_is_there(path)}")
        return ImageSource(tuple(files), path)
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return VideoSource(words)
        return ImageSource((path,), path.parent)
    if words.isdigit():
        return VideoSource(int(words))
    if glob.has_magic(words):
        found = [Path(f) for f in glob.glob(words, recursive=True)]
        files = sorted((f for f in found if f.is_file() and f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
        if not files:
            raise SourceError(f"{words}: no picture matches. (** goes into sub-folders; quote it in a shell.)")
        return ImageSource(tuple(files), _before_magic(path))
    raise SourceError(f"{words}: no such file or folder.")


def _before_magic(path: Path) -> Path:
    for parent in (path, *path.parents):
        if not glob.has_magic(str(parent)):
            return parent
    return Path()


def _what_is_there(folder: Path) -> str:
    inside = list(folder.iterdir())
    videos = [f.name for f in inside if f.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        return f"no picture in this folder, but {len(videos)} video(s); give one by name, such as {videos[0]}."
    if any(f.is_dir() for f in inside):
        return f"no picture in this folder; for those of its sub-folders give '{folder}/**/*'."
    return f"no picture in this folder (looked for {', '.join(IMAGE_SUFFIXES[:6])} and more)."


def _natural(path: Path) -> list[Any]:
    """Sort key by which frame2 comes before frame10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def read_picture(path: Path | str) -> Tensor:
    """An image file as uint8 `[3, H, W]`, read as in training: upright, RGB.

    Raises:
        SourceError: missing, damaged, or no picture.
    """
    try:
        return decode_image(path)
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file.") from error
    except Image.UnidentifiedImageError as error:
        raise SourceError(f"{path}: not a picture (empty, damaged or of an unknown format).") from error
    except Exception as error:  # PIL's decoders raise nearly anything on a damaged file
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
        raise SourceError(f"{path}: the picture cannot be read ({reason}).") from error


def as_picture(image: Any) -> Tensor:
    """A picture in memory as uint8 `[3, H, W]`.

    Args:
        image: PIL of any mode; array `[H, W, 3]` (RGB), `[H, W, 4]` (its alpha is dropped) or `[H, W]`; tensor
            `[3, H, W]`. uint8, uint16, or floating point in 0..1.

    Raises:
        SourceError: another kind, shape or range.
    """
    if isinstance(image, Image.Image):
        try:
            return to_tensor(upright_rgb(image))
        except Exception as error:
            raise SourceError(f"a PIL picture that cannot be read ({error})") from error
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise SourceError(f"a tensor should be [3, H, W], got {list(image.shape)}")
        if image.is_floating_point():
            image = image.float()  # arrays have no bfloat16
        try:
            pixels = image.detach().cpu().permute(1, 2, 0).numpy()
        except (TypeError, NotImplementedError, RuntimeError) as error:  # sparse, on no device
            raise SourceError(
                f"a tensor whose values cannot be read ({error}); give a dense one on a device"
            ) from error
    elif isinstance(image, np.ndarray):
        pixels = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
            raise SourceError(f"an array should be [H, W, 3] (RGB) or [H, W], got {list(image.shape)}")
    else:
        raise SourceError(f"{type(image).__name__} is no source of pictures")
    if 0 in pixels.shape:
        raise SourceError(f"a picture without pixels, shape {list(pixels.shape)}")
    return torch.from_numpy(np.array(_eight_bits(pixels[..., :3]))).permute(2, 0, 1)


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.int64) + 128) // 257).astype(np.uint8)
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise SourceError(f"floating-point pictures should lie in 0..1, this one in {low:g}..{high:g}")
        return (pixels * 255).round().astype(np.uint8)
    raise SourceError(f"pictures of {pixels.dtype} have no known range of values; give uint8")
