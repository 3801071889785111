"""Checkers of lesson 42."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from workbook.exercises.registry import Wrong, ask, exercise, near


@exercise("42.1")
def spearman_by_hand(answer: Any) -> None:
    """Spearman's correlation of five pairs."""
    given = float(answer)
    near(given, 0.6, 0.005, f"{given:g} is not it; the ranks of the standard deviations are 2, 3, 1, 5, 4")


@exercise("42.2")
def fraction_inside(answer: Callable[..., Any]) -> None:
    """Fraction of errors within k standard deviations."""
    generator = np.random.default_rng(42)
    errors, stds = np.abs(generator.normal(size=(50, 4))), generator.uniform(0.2, 2, size=(50, 4))
    stds[:5] = 0.0
    errors[:2] = 0.0
    for k in (0.5, 1, 2):
        expected = float((errors <= k * stds).mean())
        given = float(ask(answer, errors.copy(), stds.copy(), k))
        if not abs(given - expected) < 1e-6:
            raise Wrong(f"k = {k}: the fraction is {expected:.3f}, yours is {given:.3f} (some `stds` are 0)")


@exercise("42.3")
def calibration_factor(answer: Callable[..., Any]) -> None:
    """Factor on the standard deviations that puts a fraction of the errors inside."""
    generator = np.random.default_rng(43)
    for inside, scale in ((0.68, 1.0), (0.9, 0.3), (0.5, 4.0)):
        stds = generator.uniform(0.2, 2, size=(300, 4))
        errors = np.abs(generator.normal(size=(300, 4))) * stds / scale
        factor = float(ask(answer, errors.copy(), stds.copy(), inside))
        reached = float((errors <= factor * stds).mean())
        if not abs(reached - inside) < 0.005:
            raise Wrong(f"with your factor {factor:.3f}, {reached:.1%} of the edges lie inside; {inside:.0%} should")
