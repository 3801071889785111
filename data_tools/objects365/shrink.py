"""One image, smaller: decoded at a reduced scale where that changes little, Lanczos, JPEG of quality 75."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from dfine_lib.data.images import exif_orientation, to_tensor, upright_rgb, upright_size

QUALITY = 75  # Pillow's default, with which the published images were saved
# A JPEG is decoded at 1/2, 1/4 or 1/8 where this many times the wanted size is left. On photographs that moves levels
# by 1.3 of 255 on average, without spare it would be 3.3, and decoded whole it is 0.006 (the filter's rounding).
# Measured by benchmarks/objects365_resize.py.
SPARE = 2


def target_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height in pixels with the longer side at most `size`, cut to whole pixels as the authors do."""
    longer = max(width, height)
    if longer <= size:
        return width, height
    scale = size / longer
    return max(1, int(width * scale)), max(1, int(height * scale))


def shrink(source: Path, target: Path, size: int) -> None:
    """Write `source`, upright and with its longer side `size` pixels, as a JPEG to `target`.

    Raises:
        OSError, ValueError: no image, or a damaged one. (Pillow raises others besides.)
    """
    encoded = BytesIO()
    Image.fromarray(shrunk_pixels(source.read_bytes(), size)).save(encoded, "JPEG", quality=QUALITY)
    # Not by Pillow: on a full disk it takes a part of the bytes for all. Not getbuffer(): collecting what an exception
    # left of it crashes Python before 3.11.8 and 3.12.2 (bpo gh-111049).
    target.write_bytes(encoded.getvalue())


def shrunk_pixels(data: bytes, size: int, spare: int = SPARE) -> np.ndarray:
    """The image in a file's bytes, upright, longer side `size` pixels; uint8 [H, W, 3]."""
    with Image.open(BytesIO(data)) as image:
        wanted = target_size(*upright_size(image), size)
        stored = wanted[::-1] if exif_orientation(image) >= 5 else wanted
        if image.format == "JPEG":
            image.draft("RGB", (spare * stored[0], spare * stored[1]))
        image = upright_rgb(image)
    if not _has_lanczos():
        return np.asarray(image.resize(wanted, Image.Resampling.LANCZOS))
    smaller = interpolate(to_tensor(image)[None], size=wanted[::-1], mode="lanczos", antialias=True)
    return smaller[0].permute(1, 2, 0).contiguous().numpy()


@cache
def _has_lanczos() -> bool:
    """Whether this release of torch has the filter: 7 times faster than Pillow's, the same within two levels."""
    try:
        interpolate(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), size=(2, 2), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError, RuntimeError):
        return False
    return True
