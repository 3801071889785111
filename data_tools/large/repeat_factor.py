"""Repeat-factor sampling: images of rare classes are oversampled.

Source: Gupta, Dollár, Girshick, LVIS (arXiv 1908.03195), section 4.3.
"""

from __future__ import annotations

import numpy as np

from dfine_lib.data.coco import CocoIndex
from dfine_lib.errors import DfineError


def class_repeat_factors(index: CocoIndex, threshold: float) -> np.ndarray:
    """r(c) = max(1, sqrt(t / f(c))), where f(c) is the fraction of images with at least one box of class c.

    Args:
        index: a training index.
        threshold: t, 0 < t <= 1; classes in a larger fraction of the images are not repeated.

    Returns:
        float64 `[C]`; 1 for a class without a box.

    Raises:
        ValueError: a threshold outside of 0 < t <= 1.
    """
    if not 0 < threshold <= 1:
        raise DfineError(f"the repeat threshold is a fraction of the images, above 0 and at most 1, got {threshold}")
    image_of = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))  # [M]
    pairs = np.unique(image_of * index.num_classes + index.labels)
    images = np.bincount(pairs % index.num_classes, minlength=index.num_classes)  # [C]
    return np.maximum(1.0, np.sqrt(threshold * len(index) / images.clip(min=1))) ** (images > 0)


def repeat_factors(index: CocoIndex, threshold: float | None) -> np.ndarray:
    """How often each image occurs in an epoch: the largest r(c) of its classes; float64 `[I]`, at least 1.

    Without a threshold, and for an image without boxes, 1.
    """
    factors = np.ones(len(index))
    if threshold is not None and len(index.labels):
        per_box = class_repeat_factors(index, threshold)[index.labels]
        some = np.flatnonzero(np.diff(index.box_offsets))
        factors[some] = np.maximum.reduceat(per_box, index.box_offsets[some])
    return factors


def samples_per_epoch(factors: np.ndarray) -> int:
    """Samples of an epoch: the sum of the factors, rounded down."""
    return int(factors.sum() + 1e-6)


def draw_epoch(factors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The sample indices of one epoch: every image floor(r) or ceil(r) times, r times on average, all copies shuffled.

    One offset decides for all images together (systematic sampling along a random order), so that every epoch is
    equally long.

    Args:
        factors: of `repeat_factors`, `[I]`.
        random: decides everything; with factors of 1 the order is its permutation of the images.

    Returns:
        int64 `[samples_per_epoch(factors), 2]`: index of the image, and which of its copies this is, from 0.
    """
    order = random.permutation(len(factors))
    if (factors == 1).all():
        return np.stack([order, np.zeros_like(order)], axis=1)
    offset = random.random() + 1e-6
    ends = np.floor(np.cumsum(factors[order]) + offset).astype(np.int64)
    times = np.diff(ends, prepend=int(offset))
    copies = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    drawn = np.stack([np.repeat(order, times), copies], axis=1)
    return random.permutation(drawn)[: samples_per_epoch(factors)]
