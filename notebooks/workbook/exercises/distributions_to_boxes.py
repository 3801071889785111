"""Checkers of lesson 15."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dfine_lib.model.distribution import weighting_function
from workbook.exercises.registry import Wrong, ask, exercise, near, numbers


@exercise("15.1")
def box_by_hand(answer: Any) -> None:
    """The xyxy box that four offsets make of an initial box."""
    given = numbers(answer, 4, "left, top, right, bottom")
    right = [35.0, 30.0, 110.0, 65.0]  # from (40, 30, 100, 70): 60 px wide, 40 px high
    for edge, a, b in zip(("left", "top", "right", "bottom"), given, right):
        near(a, b, 0.01, f"the {edge} edge is off by {abs(a - b):.2f} px; mind that + is away from the centre")


@exercise("15.2")
def spread(answer: Callable[..., Any]) -> None:
    """Standard deviation of an edge's offset, as a fraction of the side."""
    W = weighting_function()
    generator = torch.Generator().manual_seed(15)
    cases = {
        "an even distribution": torch.zeros(33),
        "all on bin 20": torch.zeros(33).index_fill_(0, torch.tensor(20), 99.0),
    }
    cases |= {f"random logits, case {i}": 3 * torch.randn(33, generator=generator) for i in range(3)}
    for name, logits in cases.items():
        p = logits.softmax(-1)
        right = float(((p * W**2).sum() - (p * W).sum() ** 2).clamp(min=0).sqrt())
        given = float(ask(answer, logits.clone(), W.clone()))
        near(given, right, 2e-3, f"{name}: the standard deviation is {right:.4f} of the side, yours is {given:.4f}")


@exercise("15.3")
def correction(answer: Callable[..., Any]) -> None:
    """Logits that a layer must add so that an edge ends at a wished offset."""
    W = weighting_function()
    generator = torch.Generator().manual_seed(16)
    for wish in (0.0, 0.05, -0.3, 0.45):
        before = torch.randn(33, generator=generator)
        added = torch.as_tensor(ask(answer, before.clone(), wish, W.clone()))
        if added.shape != (33,):
            raise Wrong(f"return 33 logits, yours are {list(added.shape)}")
        reached = float(((before + added).softmax(-1) * W).sum())
        if not abs(reached - wish) < 2e-3:
            raise Wrong(f"the wish is {wish} of the side; with your logits added the edge ends at {reached:.4f}")
