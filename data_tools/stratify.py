"""Divide images so that every class, rare ones first, falls to the parts as the sizes of the parts tell.

Source: Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data (ECML 2011), here with groups of
images that stay together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from dfine_lib.errors import DfineError


def divide(
    labels: Sequence[Sequence[int]], shares: Sequence[float], *, seed: int, groups: Sequence[Hashable] | None = None
) -> np.ndarray:
    """Which part every image goes to.

    Args:
        labels: classes of the boxes of every image, 0..C-1; repeated as often as there are boxes.
        shares: size of every part, as fractions that sum to 1.
        seed: equal seeds give equal parts.
        groups: images with the same entry stay together; None: each by itself, and then the parts have exactly the
            size that was asked for, rounded.

    Returns:
        int64 `[I]`, the part of every image.

    Raises:
        ValueError: shares that are negative or do not sum to 1, or groups of another number than images.
    """
    wanted_shares = np.asarray(shares, float)
    if (wanted_shares < 0).any() or abs(wanted_shares.sum() - 1) > 1e-6:
        raise DfineError(f"shares should be positive and sum to 1, got {list(shares)}")
    keys = list(range(len(labels))) if groups is None else list(groups)
    if len(keys) != len(labels):
        raise DfineError(f"{len(keys)} groups for {len(labels)} images")
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    group_of = np.array([place[key] for key in keys], np.int64)
    classes = 1 + max((max(row) for row in labels if len(row)), default=-1)
    sizes = np.bincount(group_of, minlength=len(place)).astype(float)  # [groups] images
    counts = np.zeros((len(place), classes))  # boxes of every class
    for group, row in zip(group_of, labels, strict=True):
        np.add.at(counts[group], list(row), 1)
    space = _whole(len(labels), wanted_shares).astype(float)  # [parts] images still to come
    need = counts.sum(0)[:, None] * wanted_shares  # [C, parts] boxes still to come
    random = np.random.default_rng(seed)
    order = random.permutation(len(place))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large groups while there is space
    part = np.full(len(place), -1, np.int64)
    left = counts.sum(0)
    while (left > 0).any():
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        for group in order[(part[order] < 0) & (counts[order, rarest] > 0)]:
            part[group] = _best(need[rarest], space, sizes[group], random)
            space[part[group]] -= sizes[group]
            need[:, part[group]] -= counts[group]
            left -= counts[group]
        left[rarest] = 0
    for group in order[part[order] < 0]:  # without boxes
        part[group] = _best(space, space, sizes[group], random)
        space[part[group]] -= sizes[group]
    return part[group_of]


def _whole(count: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to `count`, nearest to the shares."""
    exact = shares * count
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = np.argsort(-(exact - whole), kind="stable")[: count - whole.sum()]
    whole[rest] += 1
    return whole


def _best(need: np.ndarray, space: np.ndarray, size: float, random: np.random.Generator) -> int:
    """The part that has space and needs the class most; ties by space, then by lot."""
    fits = space >= size
    if not fits.any():
        fits = space == space.max()
    chosen = np.flatnonzero(fits)
    chosen = chosen[need[chosen] >= need[chosen].max() - 1e-9]
    chosen = chosen[space[chosen] >= space[chosen].max() - 1e-9]
    return int(chosen[0] if len(chosen) == 1 else random.choice(chosen))
