"""Which files are images that can be opened on this machine, by the ending of their names."""

from __future__ import annotations

import os
from functools import cache
from pathlib import PurePath

# Formats that Pillow recognises and cannot decode by itself: containers of other data, drawings that need a program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
_OTHER_JPEG = (".mpo", ".pjpeg", ".pjp", ".jps")  # JPEG under endings that Pillow does not register for reading
_HEIF = (".heic", ".heif", ".hif", ".heics", ".heifs")
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")


@cache
def image_suffixes() -> tuple[str, ...]:
    """Endings, in lower case and with their point, of every image format that Pillow decodes here, sorted.

    HEIC is among them where the package pillow-heif is installed.
    """
    from PIL import Image

    has_heif = register_heif()
    Image.init()
    known = {suffix.lower() for suffix, name in Image.registered_extensions().items()
             if name in Image.OPEN and name not in _NOT_DECODED}  # fmt: skip
    return tuple(sorted(known.union(_OTHER_JPEG, _HEIF if has_heif else ())))


@cache
def register_heif() -> bool:
    """Let Pillow open HEIC where the package pillow-heif is installed; returns whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def is_image_name(name: str | PurePath) -> bool:
    """Whether the file's ending, in any case, is that of an image that can be opened here."""
    return os.path.splitext(name)[1].lower() in _known_suffixes()


@cache
def _known_suffixes() -> frozenset[str]:
    return frozenset(image_suffixes())


def why_not_opened(name: str | PurePath) -> str | None:
    """What keeps an image of a known format from being opened here, and the way out; None for every other file."""
    suffix = PurePath(name).suffix.lower()
    if suffix in image_suffixes():
        return None
    if suffix in _HEIF:
        return "HEIC needs the package pillow-heif (pip install pillow-heif)"
    if suffix in _RAW:
        return "camera raw is not opened (export it as JPEG)"
    if suffix == ".jxl":
        return "JPEG XL is not opened (convert it to PNG or JPEG)"
    return "a vector drawing is not opened (export it as PNG)" if suffix in (".svg", ".eps", ".wmf", ".emf") else None
