"""Whether boxes are in the unit that they are said to be in: one rule for training, the doctor and the converters."""

from __future__ import annotations

import numpy as np

TINY_IMAGE_PX = 8  # a side up to which a box of one pixel is no surprise


def written_as_fractions(boxes_xywh: np.ndarray, sizes_wh: np.ndarray, image_of: np.ndarray) -> np.ndarray:
    """Which boxes are fractions of their image although pixels are meant.

    The boxes of an image are judged together: they are fractions if there are two or more, all their numbers lie
    within 0..1, one of these numbers at least is not whole, and both sides of the image are longer than
    `TINY_IMAGE_PX`. Where that holds, one box an image being enough, for more than half of the boxes of a file, it is
    a file of fractions: then numbers within -1..2 are fractions too (boxes that reach out of the image), whole or not.

    So one box of a pixel in a file of pixels is no fraction, nor are placeholders such as [0, 0, 1, 1].

    Args:
        boxes_xywh: `[M, 4]` as the file has them: COCO's left, top, width, height; corners, or centre and sides, too.
        sizes_wh: `[M, 2]`, width and height in pixels of the image of every box.
        image_of: int64 `[M]`, from 0; boxes with the same number belong to one image.

    Returns:
        bool `[M]`.
    """
    large = (sizes_wh > TINY_IMAGE_PX).all(1)
    within = large & ((boxes_xywh >= 0) & (boxes_xywh <= 1)).all(1)
    if not within.any():
        return within
    partial = (boxes_xywh != np.floor(boxes_xywh)).any(1)
    boxes, fitting, partials = (np.bincount(image_of, flags) for flags in (np.ones(len(within)), within, partial))
    agreed = (fitting == boxes) & (partials > 0)
    if agreed[image_of].mean() > 0.5:
        return large & ((boxes_xywh >= -1) & (boxes_xywh <= 2)).all(1)
    return (agreed & (boxes >= 2))[image_of]
