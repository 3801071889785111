"""Checkers of lesson 22."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dfine_lib.model.distribution import weighting_function
from workbook.exercises.registry import Wrong, ask, exercise, near, numbers


def _label(offset: float, W: Tensor) -> Tensor:
    left = min(max(int((offset >= W).sum()) - 1, 0), len(W) - 2)
    right = float(((offset - W[left]) / (W[left + 1] - W[left])).clamp(0, 1))
    return torch.zeros(len(W)).index_put((torch.tensor([left, left + 1]),), torch.tensor([1 - right, right]))


def _bins() -> dict[str, Tensor]:
    return {
        "the published bins": weighting_function(),
        "eleven even bins": torch.linspace(-1, 1, 11),
        "bins of another shape": weighting_function(16, 0.3, 8.0),
    }


@exercise("22.1")
def label_by_hand(answer: Any) -> None:
    """Soft label on five bins of an edge at +0.35 of the side."""
    given = numbers(answer, 5, "one a bin")
    near(sum(given), 1, 1e-6, f"the weights sum to 1, yours to {sum(given):g}")
    for n, (yours, right) in enumerate(zip(given, (0.0, 0.0, 0.3, 0.7, 0.0))):
        if not abs(yours - right) < 1e-6:
            raise Wrong(
                f"bin {n} is off by {abs(yours - right):.2f}; which two bins does +0.35 lie between, and how far?"
            )


@exercise("22.2")
def least_loss(answer: Callable[..., Any]) -> None:
    """Entropy of the soft label, times IoU."""
    for name, W in _bins().items():
        for offset, iou in ((float(0.5 * (W[5] + W[6])), 1.0), (float(0.9 * W[3] + 0.1 * W[4]), 0.4), (0.0, 0.8)):
            label = _label(offset, W)
            right = iou * float(-torch.xlogy(label, label).sum())
            given = float(ask(answer, offset, iou, W.clone()))
            if not abs(given - right) < 1e-3:
                raise Wrong(
                    f"{name}, edge at {offset:+.3f}, IoU {iou}: the least loss is {right:.3f}, yours is {given:.3f}"
                )


@exercise("22.3")
def gradient(answer: Callable[..., Any]) -> None:
    """IoU times prediction minus label."""
    generator = torch.Generator().manual_seed(22)
    for name, W in _bins().items():
        for offset, iou in ((0.06, 1.0), (-0.21, 0.5), (1.7, 0.9), (-1.7, 0.9)):
            logits = torch.randn(len(W), generator=generator)
            right = iou * (logits.softmax(0) - _label(offset, W))
            given = torch.as_tensor(ask(answer, logits.clone(), offset, iou, W.clone())).float()
            if given.shape != right.shape:
                raise Wrong(f"return one number a bin, {len(W)} here; yours are {list(given.shape)}")
            error = float((given - right).abs().max())
            if math.isnan(error) or error > 1e-4:
                raise Wrong(
                    f"{name}, edge at {offset:+.2f}, IoU {iou}: bin {int((given - right).abs().argmax())} is off most"
                )
