"""Checkers of lesson 16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbook.exercises.registry import Wrong, ask, exercise, near, numbers


@exercise("16.1")
def convolution_cost(answer: Callable[..., Any]) -> None:
    """Weights and multiply-adds of one convolution without bias."""
    for before, after, kernel, groups, side in (
        (3, 16, 3, 1, 320), (64, 64, 5, 64, 40), (256, 512, 1, 1, 20), (32, 48, 3, 4, 7)
    ):  # fmt: skip
        weights = after * (before // groups) * kernel**2
        given = numbers(ask(answer, before, after, kernel, groups, side), 2, "weights and multiply-adds")
        case = f"{before} to {after} channels, kernel {kernel} x {kernel}, {groups} groups, output {side} x {side}"
        for name, value, right in zip(("weights", "multiply-adds"), given, (weights, weights * side**2)):
            near(value, right, 0.5, f"{case}: {right:,} {name}, yours are {value:,.0f}")


@exercise("16.2")
def class_parameters(answer: Callable[..., Any]) -> None:
    """Parameters that a training model gains with more classes."""
    for dim, layers, old, new in ((256, 6, 80, 365), (128, 3, 80, 1), (96, 3, 10, 11), (256, 4, 80, 80)):
        right = (new - old) * ((dim + 1) * (layers + 1) + dim)
        given = float(ask(answer, dim, layers, old, new))
        if not abs(given - right) < 0.5:
            raise Wrong(
                f"width {dim}, {layers} layers, {old} to {new} classes: {right:+,} parameters, yours {given:+,.0f}"
            )


@exercise("16.3")
def attention_products(answer: Callable[..., Any]) -> None:
    """Multiply-adds of an attention's two products, for the encoder's and all layers of the decoder."""
    for side_px, width, dim, layers, queries in (
        (640, 256, 256, 6, 300), (160, 96, 96, 3, 40), (1280, 384, 256, 6, 300), (640, 128, 128, 3, 300)
    ):  # fmt: skip
        tokens = (side_px // 32) ** 2
        right = 2 * tokens**2 * width + layers * 2 * queries**2 * dim
        given = float(ask(answer, side_px, width, dim, layers, queries))
        if not abs(given - right) < 0.5:
            raise Wrong(
                f"{side_px} px, widths {width} and {dim}, {layers} layers of {queries} queries: {right:,} "
                f"multiply-adds, yours are {given:,.0f}"
            )
