"""Checkers of lesson 01."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dfine_lib.boxes import box_cxcywh_to_xyxy, paired_iou_giou
from workbook.exercises.registry import Wrong, ask, exercise, near, numbers, same_shape


@exercise("01.1")
def target_by_hand(answer: Any) -> None:
    """The normalised cxcywh box of a COCO annotation."""
    given = numbers(answer, 4, "centre x, centre y, width, height")
    right = [0.3, 0.5, 0.3, 0.2]  # bbox [30, 40, 60, 20] of an image of 200 x 100
    if all(abs(a - b) < 0.01 for a, b in zip(given, (60, 50, 60, 20), strict=True)):
        raise Wrong("these are pixels; divide by the image's width and height")
    for name, a, b in zip(("centre x", "centre y", "width", "height"), given, right, strict=True):
        near(a, b, 0.002, f"the {name} is not {a:g}; x and width belong to 200 px, y and height to 100 px")


@exercise("01.2")
def least_side(answer: Callable[..., Any]) -> None:
    """Side of a square that keeps an IoU when it is shifted."""
    for shift, wanted in ((2.0, 0.75), (1.0, 0.95), (3.0, 0.5), (0.5, 0.9)):
        given = float(ask(answer, shift, wanted))
        if not given > shift:
            raise Wrong(f"{shift:g} px off: a square of {given:g} px does not overlap its old position")
        reached = (given - shift) / (given + shift)
        if not abs(reached - wanted) < 1e-3:
            raise Wrong(f"{shift:g} px off, IoU {wanted:g} wanted: a square of {given:g} px reaches {reached:.3f}")


@exercise("01.3")
def all_gious(answer: Callable[..., Any]) -> None:
    """GIoU of every pair of two sets of boxes."""
    generator = torch.Generator().manual_seed(1)
    for many_a, many_b in ((3, 5), (4, 4), (1, 2)):
        a, b = (box_cxcywh_to_xyxy(torch.rand(many, 4, generator=generator) + 0.01) for many in (many_a, many_b))
        b[0] = torch.tensor([5.0, 5.0, 6.0, 7.0])  # apart from all others, in both directions
        given = ask(answer, a.clone(), b.clone())
        right = paired_iou_giou(a[:, None], b[None])[1]
        given = same_shape(given, right, f"for {many_a} and {many_b} boxes the result")
        if not (given - right).abs().max() < 1e-4:
            i, j = divmod(int((given - right).abs().nan_to_num(9.0).argmax()), many_b)
            pair = f"{[round(x, 2) for x in a[i].tolist()]} and {[round(x, 2) for x in b[j].tolist()]}"
            raise Wrong(f"boxes {pair}: GIoU is {right[i, j]:.4f}, yours is {float(given[i, j]):.4f}")
