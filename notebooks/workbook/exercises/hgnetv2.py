"""Checkers of lesson 10."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfine_lib.model.hgnetv2 import HGBlock, LightConvBlock, StageShape
from workbook.exercises.registry import Wrong, ask, exercise, near


@exercise("10.1")
def light_parameters(answer: Callable[..., Any]) -> None:
    """Parameters of a light block."""
    for before, after, kernel, lab in ((48, 48, 5, True), (96, 48, 5, False), (6, 10, 3, True), (256, 128, 5, True)):
        right = _parameters(LightConvBlock(before, after, kernel, lab))
        given = float(ask(answer, before, after, kernel, lab))
        if not abs(given - right) < 0.5:
            words = "with" if lab else "without"
            raise Wrong(f"{before} to {after} channels, k = {kernel}, {words} LAB: {right:,}, yours is {given:,.0f}")


@exercise("10.2")
def receptive_field(answer: Callable[..., Any]) -> None:
    """Side of the square of pixels that one cell depends on."""
    for steps in (
        [(3, 1)], [(3, 2), (3, 2)], [(3, 1), (5, 1), (1, 1)], [(7, 2), (3, 2), (3, 1), (3, 2), (5, 1)], [(2, 2)] * 5
    ):  # fmt: skip
        side, jump = 1, 1
        for kernel, stride in steps:
            side, jump = side + (kernel - 1) * jump, jump * stride
        given = float(ask(answer, list(steps)))
        near(given, side, 1e-6, f"(kernel, stride) {steps}: {side} px, yours is {given:g}")


@exercise("10.3")
def block_parameters(answer: Callable[..., Any]) -> None:
    """Parameters of a whole block, from its stage's shape."""
    for shape, first, lab in (
        (StageShape(32, 24, 96, 1, True, False, 3, 3), True, True),
        (StageShape(96, 48, 192, 2, True, True, 5, 3), True, True),
        (StageShape(96, 48, 192, 2, True, True, 5, 4), False, False),
        (StageShape(16, 8, 40, 2, True, False, 3, 2), False, True),
    ):
        right = _parameters(HGBlock(shape, first, lab))
        given = float(ask(answer, shape, first, lab))
        if not abs(given - right) < 0.5:
            which = "first" if first else "second"
            raise Wrong(f"the {which} block of {tuple(shape)}, LAB {lab}: {right:,} parameters, yours is {given:,.0f}")


def _parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
