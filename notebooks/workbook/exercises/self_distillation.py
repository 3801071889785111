"""Checkers of lesson 23."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from workbook.exercises.registry import Wrong, ask, exercise, numbers


@exercise("23.1")
def softened_by_hand(answer: Any) -> None:
    """Probabilities of the logits ln 16, 0, 0 at temperature 2."""
    given = numbers(answer, 3, "one a bin")
    if not abs(sum(given) - 1) < 2e-2:  # rounded to two decimals, they sum to 1.01
        raise Wrong(f"probabilities sum to 1, yours to {sum(given):g}")
    for n, (yours, right) in enumerate(zip(given, (4 / 6, 1 / 6, 1 / 6))):
        if not abs(yours - right) < 5e-3:
            raise Wrong(f"bin {n} is off by {abs(yours - right):.3f}; what is e to the power of half of ln 16?")


@exercise("23.2")
def matched_weight(answer: Callable[..., Any]) -> None:
    """Square roots of the numbers of queries, made to sum to 1."""
    for matched, others in ((9, 291), (1, 1), (25, 100), (0, 40), (40, 0)):
        right = math.sqrt(matched) / (math.sqrt(matched) + math.sqrt(others))
        given = float(ask(answer, matched, others))
        if not abs(given - right) < 1e-4:
            raise Wrong(f"{matched} matched and {others} others: the weight is {right:.4f}, yours is {given:.4f}")


@exercise("23.3")
def distillation_gradient(answer: Callable[..., Any]) -> None:
    """T times the difference of the softened distributions."""
    generator = torch.Generator().manual_seed(23)
    for length, T in ((33, 5.0), (33, 1.0), (5, 12.0)):
        student, teacher = (3 * torch.randn(length, generator=generator) for _ in range(2))
        right = T * ((student / T).softmax(0) - (teacher / T).softmax(0))
        given = torch.as_tensor(ask(answer, student.clone(), teacher.clone(), T)).float()
        if given.shape != right.shape:
            raise Wrong(f"return one number a bin, {length} here; yours are {list(given.shape)}")
        error = float((given - right).abs().max())
        if math.isnan(error) or error > 1e-4:
            factor = float((given * right).sum() / right.square().sum())
            same = torch.allclose(given, factor * right, rtol=1e-3, atol=1e-6)
            words = f"yours is {factor:.3g} times the right one" if same else f"off by up to {error:.3g}"
            raise Wrong(f"T = {T:g}: {words}")
