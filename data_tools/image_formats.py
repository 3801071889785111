"""Which files are images that can be opened on this machine, by the ending of their names."""

from __future__ import annotations

import os
from functools import cache
from pathlib import PurePath

from PIL import Image

from dfine_lib.data.images import HEIF, NOT_OPENED, register_heif

# Formats that Pillow recognises and cannot decode by itself: containers of other data, drawings that need a program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
_OTHER_JPEG = (".mpo", ".pjpeg", ".pjp", ".jps")  # JPEG under endings that Pillow does not register for reading


@cache
def image_suffixes() -> tuple[str, ...]:
    """Endings, in lower case and with their point, of every image format that Pillow decodes here, sorted.

    HEIC is among them where the package pillow-heif is installed.
    """
    has_heif = register_heif()
    Image.init()
    known = {suffix.lower() for suffix, name in Image.registered_extensions().items()
             if name in Image.OPEN and name not in _NOT_DECODED}  # fmt: skip
    return tuple(sorted(known.union(_OTHER_JPEG, HEIF if has_heif else ())))


def is_image_name(name: str | PurePath) -> bool:
    """Whether the file's ending, in any case, is that of an image that can be opened here."""
    return os.path.splitext(name)[1].lower() in _known_suffixes()


@cache
def _known_suffixes() -> frozenset[str]:
    return frozenset(image_suffixes())


def why_not_opened(name: str | PurePath) -> str | None:
    """What keeps an image of a known format from being opened here, and the way out; None for every other file."""
    suffix = PurePath(name).suffix.lower()
    return None if suffix in image_suffixes() else NOT_OPENED.get(suffix)
