"""Checkers of lesson 12."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workbook.exercises.registry import Wrong, ask, exercise, numbers


@exercise("12.1")
def offset_to(answer: Callable[..., Any]) -> None:
    """The offset that leads from a reference box to a given location."""
    cases = (
        ((0.5, 0.4, 0.2, 0.1), (0.6, 0.4), 3, (3.0, 0.0)),
        ((0.5, 0.4, 0.2, 0.1), (0.6, 0.4), 6, (6.0, 0.0)),
        ((0.3, 0.6, 0.4, 0.5), (0.1, 0.85), 6, (-6.0, 6.0)),
        ((0.25, 0.25, 0.5, 0.125), (0.375, 0.2), 4, (2.0, -3.2)),
    )
    for box, location, points, right in cases:
        given = numbers(ask(answer, box, location, points), 2, "the offset in x and in y")
        for axis, a, b in zip("xy", given, right):
            if not abs(a - b) < 1e-3:
                raise Wrong(
                    f"from the box {box} to the location {location}, on a level of {points} points, the offset in "
                    f"{axis} is {b:g}, yours is {a:g}"
                )


@exercise("12.2")
def weight_by_level(answer: Callable[..., Any]) -> None:
    """Attention weight that a head gives to each level, from its logits."""
    generator = torch.Generator().manual_seed(12)
    for points_per_level in ((3, 6, 3), (6, 6), (4, 1, 2)):
        logits = 2 * torch.randn(sum(points_per_level), generator=generator)
        right = [float(part.sum()) for part in logits.softmax(0).split(points_per_level)]
        given = [float(x) for x in ask(answer, logits.clone(), points_per_level)]
        if len(given) != len(right):
            raise Wrong(f"{len(right)} levels have {len(right)} weights, yours are {len(given)}")
        for level, (a, b) in enumerate(zip(given, right), start=1):
            if not abs(a - b) < 1e-4:
                raise Wrong(
                    f"with points {points_per_level}, level {level} has {b:.4f} of the weight, yours is {a:.4f}"
                )


@exercise("12.3")
def slope(answer: Callable[..., Any]) -> None:
    """How fast a bilinear sample changes with x."""
    generator = torch.Generator().manual_seed(13)
    for h, w in ((2, 2), (3, 5), (6, 4)):
        values = torch.randn(h, w, generator=generator).round(decimals=2)
        for _ in range(4):
            column, row = (float(torch.rand(1, generator=generator)) for _ in range(2))
            i, j = min(int(column * (w - 1)), w - 2), min(int(row * (h - 1)), h - 2)
            a, b = 0.1 + 0.8 * column, 0.1 + 0.8 * row  # how far between the cells i and i + 1, j and j + 1
            x, y = (i + a + 0.5) / w, (j + b + 0.5) / h
            upper, lower = values[j, i + 1] - values[j, i], values[j + 1, i + 1] - values[j + 1, i]
            right = float(w * ((1 - b) * upper + b * lower))
            given = float(ask(answer, values.clone(), x, y))
            if not abs(given - right) < 2e-3 * max(abs(right), 1):
                raise Wrong(
                    f"a map of {h} x {w} cells, sampled at x = {x:.3f}, y = {y:.3f}: the slope is {right:.3f}, "
                    f"yours is {given:.3f}"
                )
