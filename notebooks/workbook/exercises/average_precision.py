"""Checkers of lesson 40."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from workbook.exercises.registry import Wrong, ask, exercise


@exercise("40.1")
def by_hand(answer: Any) -> None:
    """AP of TP, FP, TP over two objects, as a percentage."""
    expected = 100 * (51 * 1 + 50 * 2 / 3) / 101
    given = float(answer)
    if abs(given - 100 * (1 + 2 / 3) / 2) < 0.06:
        raise Wrong(f"{given:.1f} % are two equal halves; of the 101 recalls, 51 (0 to 0.50) can have precision 1")
    if not abs(given - expected) < 0.06:
        raise Wrong(
            f"{given:g} % is off; the measured points are (recall 0.5, precision 1), (0.5, 1/2) and (1, 2/3), "
            "and each recall takes the best precision at itself or to its right"
        )


@exercise("40.2")
def cost_of_copies(answer: Callable[..., Any]) -> None:
    """AP of a perfect detector that outputs every box several times."""
    for objects, copies in ((1, 1), (5, 0), (5, 1), (40, 1), (12, 3), (200, 2)):
        precision = [k / ((k - 1) * (copies + 1) + 1) for k in range(1, objects + 1)]
        expected = sum(precision[max(math.ceil(r * objects / 100) - 1, 0)] for r in range(101)) / 101
        given = float(ask(answer, objects, copies))
        if not abs(given - expected) < 5e-3:
            raise Wrong(f"{objects} objects, each with {copies} copies: AP is {expected:.3f}, yours is {given:.3f}")


@exercise("40.3")
def best_score(answer: Callable[..., Any]) -> None:
    """The score threshold of the highest F1."""
    generator = torch.Generator().manual_seed(40)
    for objects in (4, 20, 60):
        scores = torch.rand(3 * objects // 2, generator=generator).sort(descending=True).values
        is_tp = torch.rand(len(scores), generator=generator) < scores
        f1 = 2 * is_tp.cumsum(0) / (torch.arange(1, len(scores) + 1) + objects)
        cut = float(ask(answer, scores.tolist(), is_tp.tolist(), objects))
        kept = scores >= cut - 1e-6
        reached = float(2 * is_tp[kept].sum() / (kept.sum() + objects)) if cut == cut else math.nan
        if not abs(reached - float(f1.max())) < 1e-4:
            raise Wrong(
                f"{objects} objects: threshold {cut:.3f} gives F1 {reached:.3f}; the highest is {float(f1.max()):.3f}"
            )
