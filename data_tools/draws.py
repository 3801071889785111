"""Random draws that come out the same on every machine.

Only three sources of numbers are used: `numpy.random.RandomState`, whose streams numpy has frozen, its
`random_sample` (53 random bits, exactly representable), and `+ - * /` and `sqrt`, which IEEE 754 rounds the same way
everywhere. Left out on purpose: `uniform` (compiled as a fused multiply-add on some processors), normal draws and
`exp`, `log`, `sin`, `cos` (their last bit depends on the C library), matrix products and sums of floats (their order
depends on the processor).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
LIMIT = 2**32  # keys are 32-bit words


class Draws:
    """A stream of random draws that is a function of its key, and of nothing else.

    Args:
        key: whole numbers in 0 .. 2**32 - 1, for example a domain, a seed and an index.

    Raises:
        ValueError: a part of the key is out of range.
    """

    def __init__(self, *key: int) -> None:
        if any(not 0 <= part < LIMIT for part in key):
            raise ValueError(f"every part of a key must lie in 0 .. {LIMIT - 1}, got {key}")
        self._state = np.random.RandomState(list(key))
        self._ready: list[float] = []

    def unit(self) -> float:
        """A number in [0, 1)."""
        if not self._ready:
            self._ready = self._state.random_sample(128).tolist()[::-1]
        return self._ready.pop()

    def units(self, *shape: int) -> np.ndarray:
        """float64 array of numbers in [0, 1)."""
        return self._state.random_sample(shape)

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """A whole number in low .. high, both included."""
        return low + int((high - low + 1) * self.unit())

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items, all equally likely."""
        return items[int(len(items) * self.unit())]

    def direction(self) -> tuple[float, float]:
        """(cosine, sine) of an angle uniform over the circle: a point of the disc, pushed out to its rim."""
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            squared = x * x + y * y
            if 0.01 < squared <= 1:
                length = math.sqrt(squared)
                return x / length, y / length
