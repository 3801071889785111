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
    near(given, 0.6, 0.005, f"{given:g} is not it; the spreads' ranks are 2, 3, 1, 5, 4")


@exercise("42.2")
def share_inside(answer: Callable[..., Any]) -> None:
    """Share of errors within k spreads."""
    generator = np.random.default_rng(42)
    errors, spreads = np.abs(generator.normal(size=(50, 4))), generator.uniform(0.2, 2, size=(50, 4))
    spreads[:5] = 0.0
    errors[:2] = 0.0
    for k in (0.5, 1, 2):
        right = float((errors <= k * spreads).mean())
        given = float(ask(answer, errors.copy(), spreads.copy(), k))
        if not abs(given - right) < 1e-6:
            raise Wrong(f"k = {k}: the share is {right:.3f}, yours is {given:.3f} (spreads of 0 are among them)")


@exercise("42.3")
def calibration_factor(answer: Callable[..., Any]) -> None:
    """Factor on the spreads that puts a share of the errors inside."""
    generator = np.random.default_rng(43)
    for share, scale in ((0.68, 1.0), (0.9, 0.3), (0.5, 4.0)):
        spreads = generator.uniform(0.2, 2, size=(300, 4))
        errors = np.abs(generator.normal(size=(300, 4))) * spreads / scale
        factor = float(ask(answer, errors.copy(), spreads.copy(), share))
        reached = float((errors <= factor * spreads).mean())
        if not abs(reached - share) < 0.005:
            raise Wrong(
                f"with your factor {factor:.3f}, {reached:.1%} of the edges lie inside; {share:.0%} were wanted"
            )
