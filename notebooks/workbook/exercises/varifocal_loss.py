"""Checkers of lesson 21."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from workbook.exercises.registry import Wrong, ask, exercise, numbers


@exercise("21.1")
def two_losses_by_hand(answer: Any) -> None:
    """The varifocal loss of a matched query at p = 0.5 whose box reaches 0.8, and of an unmatched one at p = 0.5."""
    given = numbers(answer, 2, "the loss of the matched query and that of the unmatched one")
    right = [0.8 * math.log(2), 0.75 * 0.25 * math.log(2)]
    for name, a, b in zip(("positive", "negative"), given, right):
        if not abs(a - b) < 6e-3:  # two decimals will do
            raise Wrong(f"the loss of the {name} query is not {a:.4f}; at p = 0.5 both logarithms are ln 0.5 = -0.693")


@exercise("21.2")
def gradient(answer: Callable[[float, float, bool], float]) -> None:
    """Gradient of the varifocal loss with respect to the logit."""
    for p, q, matched in ((0.5, 0.8, True), (0.9, 0.3, True), (0.2, 0.0, True), (0.3, 0.0, False), (0.8, 0.6, False)):
        right = q * (p - q) if matched else 0.75 * p**3
        given = float(ask(answer, p, q, matched))
        if not abs(given - right) < 1e-3:
            kind = f"a matched query with IoU {q}" if matched else "an unmatched query"
            raise Wrong(f"{kind} at score {p}: the gradient is {right:.4f}, yours is {given:.4f}")


@exercise("21.3")
def settling_score(answer: Callable[[float, float], float]) -> None:
    """The score at which the mean gradient vanishes, for a query that is matched in a fraction of the steps."""
    for matched, q in ((1.0, 0.7), (0.5, 0.8), (0.1, 0.9), (0.9, 0.4)):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            gradient = matched * q * (middle - q) + (1 - matched) * 0.75 * middle**3
            low, high = (middle, high) if gradient < 0 else (low, middle)
        given = float(ask(answer, matched, q))
        if not abs(given - low) < 1e-2:  # a hundred values of p will do
            raise Wrong(
                f"matched in {matched:.0%} of the steps with IoU {q}: it settles at {low:.3f}, you say {given:.3f}"
            )
