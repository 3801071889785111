"""Checkers of lesson 41."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dfine_lib.model.distribution import weighting_function
from workbook.exercises.registry import Wrong, ask, exercise


@exercise("41.1")
def std_by_hand(answer: Any) -> None:
    """Standard deviation, in pixels, of a distribution on two bins."""
    given = float(answer)
    if not abs(given - 3.0) < 0.05:  # 60 px wide; half at +10 %, half at +20 %
        raise Wrong(f"{given:g} px is off; both bins lie 5 % of the width away from their mean, and the width is 60 px")


@exercise("41.2")
def largest_contribution(answer: Callable[..., Any]) -> None:
    """The bin that adds most to an edge's offset, inward or outward."""
    W = weighting_function()
    generator = torch.Generator().manual_seed(41)
    for case in range(6):
        logits = 2 * torch.randn(33, generator=generator) - 0.02 * (torch.arange(33) - 12.0 - 2 * case) ** 2
        probabilities = logits.softmax(-1)
        expected = int((W * probabilities).abs().argmax())
        given = ask(answer, probabilities.clone(), W.clone())
        if isinstance(given, bool) or float(given) != expected:
            most = int(probabilities.argmax())
            hint = f" (bin {most} is the most probable, but what does it add?)" if expected != most else ""
            raise Wrong(f"case {case}: bin {expected} adds most, yours is {given}{hint}")


@exercise("41.3")
def chance_of_wider(answer: Callable[..., Any]) -> None:
    """How often a standard deviation of one list is larger than one of another."""
    generator = torch.Generator().manual_seed(43)
    cases = [([3.0, 5.0], [1.0, 4.0]), ([1.0, 2.0], [2.0, 2.0, 5.0])]
    for shift in (0.0, 0.4, -0.3):
        pair = shift + torch.rand(7, generator=generator), torch.rand(9, generator=generator)
        cases.append((pair[0].tolist(), pair[1].tolist()))
    for hard, easy in cases:
        pairs = [1.0 if h > e else 0.5 if h == e else 0.0 for h in hard for e in easy]
        expected = sum(pairs) / len(pairs)
        given = float(ask(answer, list(hard), list(easy)))
        if not abs(given - expected) < 1e-3:
            raise Wrong(f"hard {hard[:3]}..., easy {easy[:3]}...: {expected:.3f} of the pairs, yours is {given:.3f}")
