"""Checkers of lesson 30."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from workbook.exercises.registry import Wrong, ask, exercise, near


@exercise("30.1")
def half_life(answer: Any) -> None:
    """Steps after which half of what an average held is left, for a decay of 0.999."""
    given = float(answer)
    right = math.log(0.5) / math.log(0.999)
    near(given, right, 3, f"0.999 to the power of {given:g} is {0.999 ** min(max(given, 0), 1e6):.3f}, not 0.5")


@exercise("30.2")
def decay_for(answer: Callable[[float, int], float]) -> None:
    """The constant decay that leaves a share of the initial weights after so many steps."""
    for share, steps in ((0.5, 1), (0.01, 500), (0.2, 90), (0.001, 20_000)):
        given, right = float(ask(answer, share, steps)), share ** (1 / steps)
        if not abs(given - right) < 1e-6 + 1e-3 * (1 - right):
            raise Wrong(
                f"to leave {share:g} of the start after {steps} steps the decay is {right:.6f}, you say {given:.6f}"
            )


@exercise("30.3")
def without_the_start(answer: Callable[..., Any]) -> None:
    """An average of weights with the share of the initial ones taken out of it."""
    generator = torch.Generator().manual_seed(30)
    for decay, steps in ((0.9, 3), (0.9999, 500), (0.99, 40)):
        initial, run = (torch.randn(*shape, generator=generator).double() for shape in ((4,), (steps, 4)))
        average = initial.clone()
        for weights in run:
            average = decay * average + (1 - decay) * weights
        shares = (1 - decay) * decay ** torch.arange(steps - 1, -1, -1).double()
        right = (shares[:, None] * run).sum(0) / shares.sum()
        given = torch.as_tensor(ask(answer, average.clone(), initial.clone(), decay, steps)).double()
        if given.shape != (4,):
            raise Wrong(f"return an average of the weights' shape, [4]; yours is {list(given.shape)}")
        off = float((given - right).abs().max())
        if not off < 1e-4:
            raise Wrong(
                f"decay {decay}, {steps} steps: off by up to {off:.4f} from the average of the run's own weights"
            )
