"""Checkers of lesson 03."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy
from workbook.exercises.registry import Wrong, ask, exercise, near, numbers, same_shape


@exercise("03.1")
def flipped_and_stretched(answer: Any) -> None:
    """A box after a flip and a stretch."""
    given = numbers(answer, 4, "left, top, right, bottom")
    right = [8.0, 16.0, 40.0, 96.0]  # (150, 10, 190, 60) of 200 x 100, flipped, at 160 x 160
    if all(abs(a - b) < 0.01 for a, b in zip(given, (40, 16, 8, 96), strict=True)):
        raise Wrong("left and right are swapped: a flipped left edge is the right one")
    for edge, a, b in zip(("left", "top", "right", "bottom"), given, right, strict=True):
        near(a, b, 0.01, f"the {edge} edge is not at {a:g} px; flip at 200 px first, then times 160/200 and 160/100")


def _compare(given: Any, right: Tensor, names: tuple[str, ...], tolerance: float, where: str = "") -> None:
    off = (same_shape(given, right, f"for {len(right)} boxes the result") - right).abs()
    if len(right) and not off.max() < tolerance:
        worst = int(off.nan_to_num(1e9).amax(0).argmax())
        raise Wrong(f"{where}{names[worst]} is off by up to {float(off[:, worst].max()):.3g}")


@exercise("03.2")
def flip_cxcywh(answer: Callable[..., Any]) -> None:
    """Normalised centre and size, mirrored."""
    generator = torch.Generator().manual_seed(3)
    for many in (3, 1, 0):
        boxes = torch.rand(many, 4, generator=generator)
        handed = boxes.clone()
        given = ask(answer, handed)
        right = torch.stack([1 - boxes[:, 0], *boxes[:, 1:].unbind(1)], dim=1)
        _compare(given, right, ("centre x", "centre y", "width", "height"), 1e-5)
        if not torch.equal(handed, boxes):
            raise Wrong("your function has changed its argument; work on a copy")


@exercise("03.3")
def turn_clockwise(answer: Callable[..., Any]) -> None:
    """Boxes of an image turned by 90 degrees clockwise."""
    generator = torch.Generator().manual_seed(4)
    for many, height, width in ((3, 100, 200), (2, 480, 640), (0, 64, 48)):
        unit = 0.3 + 0.4 * torch.rand(many, 4, generator=generator) * torch.tensor([1, 1, 0.5, 0.5])
        boxes = box_cxcywh_to_xyxy(unit) * torch.tensor([width, height, width, height])
        given = ask(answer, boxes.clone(), height)
        right = boxes[:, [3, 0, 1, 2]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([height, 0, height, 0])
        _compare(given, right, ("left", "top", "right", "bottom"), 0.01, f"image of {width} x {height} px: ")
