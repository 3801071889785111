"""How a file writes its boxes, by the evidence of all of them: the one rule of the converter and of the doctor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dfine_lib.data.coco_checks import TINY_IMAGE_PX, written_as_fractions

EDGE_PX = 1.0  # what a box may stick out by and still fits: rounding
FEWEST = 8  # boxes; fewer do not tell how a file writes them

# How a file may write its boxes by mistake: numbers [n, 4] and image sizes [n, 2] to xywh in pixels.
WRITINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "boxes_as_corners": lambda b, wh: np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1),
    "boxes_as_centres": lambda b, wh: np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, 2:]], 1),
    "boxes_axes_swapped": lambda b, wh: b[:, [1, 0, 3, 2]],
}


def fits(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """bool `[n]`: positive sides, inside the image but for rounding."""
    slack = EDGE_PX + 0.002 * sizes_wh
    inside = (boxes_xywh[:, :2] >= -slack) & (boxes_xywh[:, :2] + boxes_xywh[:, 2:] <= sizes_wh + slack)
    return (inside & (boxes_xywh[:, 2:] > 0)).all(1)


def is_written_as(name: str, plain: np.ndarray, other: np.ndarray) -> bool:
    """Whether all boxes of a file are written in another way.

    Args:
        name: a key of `WRITINGS`.
        plain: bool `[n]`, which boxes fit into their images as [left, top, width, height].
        other: the same, read in the other way.
    """
    fewest = 0.05 if name == "boxes_as_centres" else 0.15  # those near the right and lower edges alone tell
    return len(plain) >= FEWEST and bool(other.mean() >= 0.98 and (~plain & other).mean() >= fewest)


def writing_of(boxes: np.ndarray, sizes_wh: np.ndarray) -> str | None:
    """The way in which all boxes of a file are written, where it is not [left, top, width, height] in pixels.

    Args:
        boxes: `[n, 4]`, the numbers of the file.
        sizes_wh: `[n, 2]` pixels, of the image of every box.
    """
    plain = fits(boxes, sizes_wh)
    if plain.mean() > 0.95 if len(plain) else True:
        return None
    others = ((name, fits(convert(boxes, sizes_wh), sizes_wh)) for name, convert in WRITINGS.items())
    return next((name for name, other in others if is_written_as(name, plain, other)), None)


def fractions_in(boxes: np.ndarray, sizes_wh: np.ndarray, image_of: np.ndarray) -> np.ndarray:
    """Which boxes are fractions of their image: bool `[n]`.

    Beyond `written_as_fractions`, a file in which all boxes lie in the first pixel: placeholders such as [0, 0, 1, 1].

    Args:
        boxes: `[n, 4]`, the numbers of the file.
        sizes_wh: `[n, 2]` pixels, of the image of every box.
        image_of: int64 `[n]`, from 0; boxes with the same number belong to one image.
    """
    found = written_as_fractions(boxes, sizes_wh, image_of)
    if not found.any() and len(boxes) and boxes.min() >= 0 and 0 < (boxes[:, :2] + boxes[:, 2:]).max() <= 1:
        return np.full(len(boxes), bool((sizes_wh > TINY_IMAGE_PX).all()))
    return found
