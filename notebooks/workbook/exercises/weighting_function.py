"""Checkers of lesson 14."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dfine_lib.model.distribution import weighting_function
from workbook.exercises.registry import Wrong, ask, exercise


@exercise("14.1")
def nearest_bin(answer: Callable[[float], int]) -> None:
    """Bin whose offset is nearest to an edge error, given as a fraction of the side."""
    offsets = weighting_function()
    for fraction in (0.0, 0.011, -0.03, 0.2, -0.47, 0.74, 0.9, -3.0):
        right = int((offsets - fraction).abs().argmin())
        given = ask(answer, fraction)
        if given != right:
            raise Wrong(f"for an error of {fraction} of the side the nearest bin is {right}, yours is {given}")


@exercise("14.2")
def bins_within(answer: Callable[[float, float], int]) -> None:
    """How many bins stand for offsets of at most a given fraction of the side, for a given 1 / c."""
    for fraction, reg_scale in ((0.1, 4.0), (0.1, 8.0), (0.02, 4.0), (0.5, 2.0), (2.0, 4.0)):
        offsets = weighting_function(reg_scale=reg_scale)
        right = int((offsets.abs() <= fraction + 1e-6).sum())
        given = ask(answer, fraction, reg_scale)
        if given != right:
            raise Wrong(
                f"with reg_scale {reg_scale}, {right} bins lie within {fraction} of the side, you count {given}"
            )


@exercise("14.3")
def even_steps_cost(answer: Callable[[float], float]) -> None:
    """W's worst rounding error over that of 33 even bins, for edge errors up to a fraction of the side."""
    for most in (0.02, 0.05, 0.2, 0.9):
        errors = torch.linspace(-most, most, 4001)
        curved, even = weighting_function(), torch.linspace(-1, 1, 33)
        worst = [float((bins[:, None] - errors).abs().amin(0).max()) for bins in (curved, even)]
        right = worst[0] / worst[1]
        given = float(ask(answer, most))
        if not abs(given - right) <= 0.02 * right:
            raise Wrong(f"for errors up to {most} of the side the ratio is {right:.3f}, yours is {given:.3f}")
