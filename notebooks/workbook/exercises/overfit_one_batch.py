"""Checkers of lesson 31."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workbook.exercises.registry import Wrong, ask, exercise, numbers


@exercise("31.1")
def clipped_by_hand(answer: Any) -> None:
    """The gradient (3, 4) with its norm clipped at 0.1."""
    given = numbers(answer, 2, "the clipped gradient")
    if not all(abs(a - b) < 1e-3 for a, b in zip(given, (0.06, 0.08))):
        norm = (given[0] ** 2 + given[1] ** 2) ** 0.5
        raise Wrong(f"{tuple(given)} has norm {norm:.3f}; wanted is the direction of (3, 4) with norm 0.1")


@exercise("31.2")
def clipped(answer: Callable[..., Any]) -> None:
    """Gradients of several tensors, scaled together so that their common norm is at most a limit."""
    generator = torch.Generator().manual_seed(31)
    for scale, limit in ((1.0, 0.1), (0.001, 0.1), (5.0, 2.0)):
        gradients = [scale * torch.randn(*shape, generator=generator) for shape in ((3,), (2, 4), (1, 2, 2))]
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        right = [g * min(1.0, limit / norm) for g in gradients]
        given = list(ask(answer, [g.clone() for g in gradients], limit))
        if [tuple(torch.as_tensor(g).shape) for g in given] != [tuple(g.shape) for g in right]:
            raise Wrong("return as many tensors as were given, each of its own shape")
        off = max(float((torch.as_tensor(a) - b).abs().max()) for a, b in zip(given, right))
        if not off < 1e-5 + 1e-3 * limit:
            together = float(torch.cat([torch.as_tensor(g).flatten() for g in given]).norm())
            raise Wrong(
                f"gradients with norm {norm:.4f} in all, limit {limit}: the norm should become "
                f"{min(norm, limit):.4f}, yours is {together:.4f}, and values are off by up to {off:.4f}"
            )


@exercise("31.3")
def stops_at(answer: Callable[[list[bool], int], int]) -> None:
    """The step at which a run gives up, from which of its steps were broken."""
    good, bad = False, True
    for steps, most, right in (
        ([good] * 4 + [bad] * 3 + [good], 3, 6),
        ([bad, bad, good, bad, bad, good, bad], 3, -1),
        ([good, good, bad, good], 1, 2),
        ([bad] * 20, 10, 9),
        ([], 2, -1),
    ):
        given = ask(answer, list(steps), most)
        if isinstance(given, bool) or given != right:
            marks = "".join("x" if broken else "." for broken in steps)
            raise Wrong(
                f"broken steps are x in [{marks}], at most {most} consecutive: the answer is {right}, not {given}"
            )
