"""Checkers of lesson 50."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from workbook.exercises.registry import Wrong, ask, exercise


@exercise("50.1")
def folded_numbers(answer: Callable[..., tuple[float, float]]) -> None:
    """Weight and bias of one channel's fused convolution."""
    for weight, gamma, beta, mean, variance in (
        (3.0, 4.0, 1.0, 5.0, 4.0),  # gamma over the root of the variance must not be 1: it hides a factor left out
        (-1.0, 0.5, 0.0, 2.0, 4.0),
        (0.5, 1, -3, 0, 1),
    ):
        given = ask(answer, weight, gamma, beta, mean, variance)
        scale = gamma / variance**0.5
        right = weight * scale, beta - mean * scale
        if len(given) != 2 or not all(abs(float(a) - b) < 1e-3 for a, b in zip(given, right)):
            raise Wrong(
                f"for weight {weight}, gamma {gamma}, beta {beta}, mean {mean}, variance {variance} the pair is "
                f"({right[0]:g}, {right[1]:g}), yours is {given}"
            )


@exercise("50.2")
def identity_kernel(answer: Callable[[int], Any]) -> None:
    """A 3 x 3 kernel that leaves its input as it is."""
    for channels in (1, 3, 8):
        weight = torch.as_tensor(ask(answer, channels))
        if weight.shape != (channels, channels, 3, 3):
            raise Wrong(
                f"for {channels} channels the weight is [{channels}, {channels}, 3, 3], yours is {list(weight.shape)}"
            )
        x = torch.randn(2, channels, 5, 6)
        out = F.conv2d(x, weight.float(), padding=1)
        if not torch.allclose(out, x, atol=1e-5):
            raise Wrong(
                f"for {channels} channels the output differs from the input by up to {float((out - x).abs().max()):.3g}"
            )


@exercise("50.3")
def affine_into_next(answer: Callable[..., tuple[Any, Any]]) -> None:
    """A scale and a shift before a 1 x 1 convolution, moved into it."""
    for out_channels, in_channels, scale, shift in ((2, 3, 2.0, 0.5), (4, 1, -0.3, 1.0), (3, 5, 1.0, 0.0)):
        weight, bias, x = (
            torch.randn(out_channels, in_channels, 1, 1),
            torch.randn(out_channels),
            torch.randn(2, in_channels, 4, 4),
        )
        given = ask(answer, weight.clone(), bias.clone(), scale, shift)
        if (
            len(given) != 2
            or torch.as_tensor(given[0]).shape != weight.shape
            or torch.as_tensor(given[1]).shape != bias.shape
        ):
            raise Wrong(f"return the new weight {list(weight.shape)} and the new bias {list(bias.shape)}")
        expected = F.conv2d(scale * x + shift, weight, bias)
        off = float((F.conv2d(x, *(torch.as_tensor(g).float() for g in given)) - expected).abs().max())
        if not off < 1e-4:
            raise Wrong(f"with scale {scale} and shift {shift} the outputs differ by up to {off:.3g}")
