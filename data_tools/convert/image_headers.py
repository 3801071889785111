"""What the header of an image file says, and whether the image can be read.

An image is decoded only where its end is not that of a whole file.
"""

from __future__ import annotations

import contextlib
import warnings
from functools import lru_cache
from pathlib import Path

from PIL import Image

from data_tools.convert.text_files import GIT_LFS
from data_tools.image_frames import Header
from dfine_lib.data.images import DataError, exif_orientation, looks_whole, upright_rgb

MOST_DECODED = 89_478_485  # pixels; where PIL begins to warn of a decompression bomb
_PROGRAMS = ("EPS", "WMF")  # PIL hands these to an interpreter that runs what is in the file


def read_header(path: Path) -> tuple[Header, int]:
    """Size, EXIF orientation and number of frames of an image.

    Raises:
        DataError: more pixels than can be decoded safely.
        UnreadableImage: no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if (why := why_not_read(image)) is not None:
                    raise UnreadableImage(why)
                header, count = Header(image.size, exif_orientation(image)), frames(image)
                if image.width * image.height <= MOST_DECODED and not looks_whole(path, image.format):
                    image.seek(0)
                    image.load()
                return header, count
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: refused: {error} Shrink it or remove it.") from error
    except UnreadableImage:
        raise
    except Exception as error:  # PIL raises nearly anything on a damaged file
        raise UnreadableImage(damage(path, error)) from error


def damage(path: Path, error: Exception) -> str:
    """What keeps a file from being read as an image, in a few words."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if not (start := file.read(len(GIT_LFS))):
            return "empty file"
        if start == GIT_LFS:
            return "Git LFS pointer, run git lfs pull"
    return "truncated" if "truncated" in str(error) or isinstance(error, EOFError) else type(error).__name__


def why_not_read(image: Image.Image) -> str | None:
    """What keeps an image with a readable header from being read in training; None where nothing does."""
    if image.format in _PROGRAMS:
        return f"{image.format}: drawn by a program"
    return None if _has_known_range(image.mode) else f"mode {image.mode} has no known range of values"


@lru_cache(maxsize=64)
def _has_known_range(mode: str) -> bool:
    try:
        upright_rgb(Image.new(mode, (1, 1)))
    except Exception:
        return False
    return True


def frames(image: Image.Image) -> int:
    """How many frames an image file holds, of which the first is used."""
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # damage behind the first frame, which is the one that is used
        return 1


def header_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels once upright; raises as `read_header` does."""
    return read_header(path)[0].upright


class UnreadableImage(Exception):
    """Left out and listed; never leaves this package."""
