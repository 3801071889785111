"""One look at an image file: what its header says, whether it decodes, and 32 × 32 grey values to compare it by.

Nothing larger than `MOST_DECODED` is decoded, only plain files are opened (a named pipe would wait for ever), and JPEGs
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
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_tools.convert.image_headers import MOST_DECODED, damage, frames, why_not_read
from data_tools.image_formats import image_suffixes, why_not_opened
from data_tools.image_frames import Header
from dfine_lib.data.images import exif_orientation

SIDE = 32  # of the grey thumbnail that images are compared by


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What one image file is. `problem` names the check that it fails; then the rest may be missing."""

    path: Path
    problem: str = ""
    message: str = ""
    size_bytes: int = 0
    format: str = ""
    mode: str = ""
    stored_wh: tuple[int, int] = (0, 0)  # pixels, as the header says
    upright_wh: tuple[int, int] = (0, 0)  # as training sees it, turned as EXIF says
    orientation: int = 1  # EXIF, 1 to 8
    frames: int = 1
    transparent: bool = False
    leaves_folder: bool = False  # a link to somewhere else
    grey: bytes = b""  # uint8 [32, 32], empty where it was not decoded

    @property
    def header(self) -> Header:
        """What decides about the frame of the image's boxes."""
        return Header(self.stored_wh, self.orientation)

    @property
    def decodable(self) -> bool:
        """Whether it is small and whole enough to be drawn."""
        return not self.problem and 0 < self.stored_wh[0] * self.stored_wh[1] <= MOST_DECODED


def look_at(paths: Sequence[Path], folder: Path) -> list[ImageFile]:
    """Look at every file, in threads; `folder` is what links should not lead out of."""
    home = os.path.realpath(folder)
    image_suffixes()  # registers the plug-ins that are installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PIL, about images that are reported as findings
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
        return ImageFile(problem="image_empty", message="0 bytes", **known)
    if (why := why_not_opened(path)) is not None:
        return ImageFile(problem="image_unreadable", message=why, **known)
    try:
        with Image.open(path) as image:
            if (why := why_not_read(image)) is not None:
                problem = "image_mode_unknown" if why.startswith("mode") else "image_unreadable"
                return ImageFile(problem=problem, message=why, **known)
            known |= dict(format=image.format or "", mode=image.mode, stored_wh=image.size)
            known["transparent"] = "A" in image.mode or "a" in image.mode or "transparency" in image.info
            known |= dict(orientation=exif_orientation(image), frames=frames(image))
            known["upright_wh"] = Header(image.size, known["orientation"]).upright
            if image.width * image.height > MOST_DECODED:
                return ImageFile(**known)
            image.seek(0)
            return ImageFile(grey=_grey(image), **known)
    except Image.DecompressionBombError as error:
        return ImageFile(problem="image_enormous", message=str(error)[:120], **known)
    except MemoryError:
        return ImageFile(problem="image_enormous", message="does not fit into the memory", **known)
    except Exception as error:  # PIL's decoders raise nearly anything on a damaged file
        why = damage(path, error)
        name = "image_truncated" if why == "truncated" else "image_unreadable"
        return ImageFile(problem=name, message=why if why != type(error).__name__ else _in_words(error), **known)


def _in_words(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "damaged, or of an unknown format"
    return str(error)[:120] or type(error).__name__


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
