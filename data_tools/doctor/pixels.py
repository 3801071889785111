"""One look at an image file: what its header says, whether it decodes, and 32 x 32 grey values to compare it by.

Nothing larger than `MOST_PIXELS` is decoded, only plain files are opened (a named pipe would wait for ever), and JPEGs
are decoded at an eighth of their size, which reads all their bytes and holds few of their pixels.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from dfine_lib.data.images import upright_rgb, upright_size

MOST_PIXELS = 89_478_485  # where PIL begins to warn of a decompression bomb
PROGRAMS = ("EPS", "WMF")  # PIL hands these to an interpreter that runs what is in the file
SIDE = 32  # of the grey thumbnail that pictures are compared by


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What one image file is. `fault` names the check that it fails; then the rest may be missing."""

    path: Path
    fault: str = ""
    message: str = ""
    size_bytes: int = 0
    format: str = ""
    mode: str = ""
    stored_wh: tuple[int, int] = (0, 0)  # pixels, as the header says
    upright_wh: tuple[int, int] = (0, 0)  # as training sees it, turned as EXIF says
    orientation: int = 1
    animated: bool = False
    transparent: bool = False
    leaves_folder: bool = False  # a link to somewhere else
    grey: bytes = b""  # uint8 [32, 32], empty where it was not decoded

    @property
    def decodable(self) -> bool:
        """Whether it is small and whole enough to be drawn."""
        return not self.fault and 0 < self.stored_wh[0] * self.stored_wh[1] <= MOST_PIXELS


def look_at(paths: Sequence[Path], folder: Path) -> list[ImageFile]:
    """Look at every file, in threads; `folder` is what links should not lead out of."""
    home = os.path.realpath(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PIL, about pictures that are told as findings
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda path: _look(path, home), paths)
            return list(tqdm(found, "looking at images", len(paths), leave=False, unit="image", delay=2.0))


def _look(path: Path, home: str) -> ImageFile:
    try:
        status = os.stat(path)
    except OSError as error:
        return ImageFile(path, "image_missing", error.strerror or str(error))
    except ValueError as error:
        return ImageFile(path, "image_missing", str(error))
    if not stat.S_ISREG(status.st_mode):
        return ImageFile(path, "image_no_file", "a folder, a pipe or a device, not a file")
    outside = not os.path.realpath(path).startswith(home.rstrip(os.sep) + os.sep)
    known = dict(path=path, size_bytes=status.st_size, leaves_folder=outside)
    if not status.st_size:
        return ImageFile(fault="image_empty", message="0 bytes", **known)
    try:
        with Image.open(path) as image:
            if image.format in PROGRAMS:
                return ImageFile(fault="image_unreadable", message=f"{image.format}: drawn by a program", **known)
            known |= dict(format=image.format or "", mode=image.mode, stored_wh=image.size)
            known["transparent"] = "A" in image.mode or "a" in image.mode or "transparency" in image.info
            if image.width * image.height > MOST_PIXELS:
                return ImageFile(fault="image_enormous", message=f"{image.width} x {image.height} pixels", **known)
            known |= dict(upright_wh=upright_size(image), orientation=orientation(image))
            known["animated"] = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            if not _is_read(image.mode):
                return ImageFile(fault="image_mode_unknown", message=f"mode {image.mode}", **known)
            return ImageFile(grey=_grey(image), **known)
    except Image.DecompressionBombError as error:
        return ImageFile(fault="image_enormous", message=str(error)[:120], **known)
    except MemoryError:
        return ImageFile(fault="image_enormous", message="does not fit into the memory", **known)
    except Exception as error:  # PIL's decoders raise nearly anything on a damaged file
        name = "image_truncated" if "truncated" in str(error) or isinstance(error, EOFError) else "image_unreadable"
        message = "damaged, or of an unknown format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        return ImageFile(fault=name, message=message[:120] or type(error).__name__, **known)


def orientation(image: Image.Image) -> int:
    """EXIF orientation 2..8 that changes the picture, else 1."""
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and not {"exif", "Raw profile type exif", "XML:com.adobe.xmp"} & image.info.keys():
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return 1
    return value if value in range(2, 9) else 1


def turned(corners: np.ndarray, stored_wh: tuple[int, int], orientation: int) -> np.ndarray:
    """Corners `[left, top, right, bottom]` of the stored picture in the upright one, as EXIF orientation turns it."""
    width, height = stored_wh
    left, top, right, bottom = corners
    if orientation in (2, 3, 7, 8):  # mirrored along x before the axes are exchanged
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
    return np.array([left, top, right, bottom])


@lru_cache(maxsize=64)
def _is_read(mode: str) -> bool:
    try:
        upright_rgb(Image.new(mode, (1, 1)))
    except Exception:
        return False
    return True


def _grey(image: Image.Image) -> bytes:
    image.draft("L", (2 * SIDE, 2 * SIDE))  # JPEG alone knows this; others stay as they are
    image.load()
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        image = Image.fromarray(values.astype(np.uint8))
    elif image.mode == "LAB":  # to RGB only
        image = image.convert("RGB").convert("L")
    elif image.mode != "L":
        image = image.convert("RGBA").convert("L") if image.mode in ("P", "PA") else image.convert("L")
    return image.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def digest(path: Path) -> bytes | None:
    """Hash of a file's bytes; None where it cannot be read."""
    value = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                value.update(block)
    except OSError:
        return None
    return value.digest()
