"""An image, from a file or in memory, as the detector takes it: uint8 `[3, H, W]`, RGB, upright."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_tools.image_formats import why_not_opened
from dfine_lib.data.images import decode_opened, open_image, to_tensor, upright_rgb
from dfine_lib.errors import DfineError


class SourceError(DfineError):
    """A source that gives no images; the message names it, and the way out."""


def read_image(path: Path | str) -> Tensor:
    """An image file as uint8 `[3, H, W]`, read as in training: upright, RGB; of several frames, the first.

    Raises:
        SourceError: missing, damaged, or no image.
    """
    return read_first_frame(path)[0]


def read_first_frame(path: Path | str) -> tuple[Tensor, int]:
    """The image that `read_image` reads, and how many frames the file holds."""
    try:
        with open_image(path) as image:
            frames = 1
            with contextlib.suppress(Exception):  # counted through the whole file, whose end may be damaged
                frames = getattr(image, "n_frames", 1)
            return decode_opened(image, path), frames
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file.") from error
    except Image.UnidentifiedImageError as error:
        reason = why_not_opened(path) or "not an image (empty, damaged or of an unknown format)"
        raise SourceError(f"{path}: {reason}.") from error
    except Exception as error:  # PIL's decoders raise nearly anything on a damaged file
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
        raise SourceError(f"{path}: the image cannot be read ({reason}).") from error


def as_image(image: Any) -> Tensor:
    """An image in memory as uint8 `[3, H, W]`.

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
            raise SourceError(f"a PIL image that cannot be read ({error})") from error
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
        raise SourceError(f"{type(image).__name__} is no source of images")
    if 0 in pixels.shape:
        raise SourceError(f"an image without pixels, shape {list(pixels.shape)}")
    return torch.from_numpy(np.array(_eight_bits(pixels[..., :3]))).permute(2, 0, 1)


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.int64) + 128) // 257).astype(np.uint8)
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise SourceError(f"floating-point images should lie in 0..1, this one in {low:g}..{high:g}")
        return (pixels * 255).round().astype(np.uint8)
    raise SourceError(f"images of {pixels.dtype} have no known range of values; give uint8")
