"""Checkers of lesson 02."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workbook.exercises.registry import Wrong, ask, exercise, numbers, same_shape


@exercise("02.1")
def clamped_by_hand(answer: Any) -> None:
    """The box of an annotation that reaches over the border."""
    given = numbers(answer, 4, "left, top, right, bottom")
    right = [150.0, 60.0, 200.0, 100.0]  # bbox [150, 60, 80, 60] of an image of 200 x 100
    for edge, a, b in zip(("left", "top", "right", "bottom"), given, right, strict=True):
        if not abs(a - b) < 0.01:
            raise Wrong(f"the {edge} edge is not at {a:g} px; a bbox is left, top, width, height, and the image ends")


@exercise("02.2")
def file_ids(answer: Callable[..., Any]) -> None:
    """The file's category ids of labels."""
    cases = (
        ([0, 1, 2, 1], [(7, "nut"), (12, "gear"), (90, "bolt")], [7, 12, 90, 12]),
        ([2, 0], [(90, "bolt"), (7, "nut"), (12, "gear")], [90, 7]),
        ([1, 1, 3], [(5, "d"), (100, "c"), (0, "b"), (31, "a")], [5, 5, 100]),
        ([], [(1, "one")], []),
    )
    for labels, categories, right in cases:
        given = ask(answer, list(labels), [{"id": id_, "name": name} for id_, name in categories])
        if not isinstance(given, list | tuple) or [*given] != right:
            raise Wrong(f"labels {labels} of categories {[id_ for id_, _ in categories]} are {right}, yours {given!r}")


@exercise("02.3")
def results_xywh(answer: Callable[..., Any]) -> None:
    """Predicted boxes in the original image's pixels, as COCO writes them."""
    generator = torch.Generator().manual_seed(2)
    for many, size in ((3, (640, 480)), (1, (100, 300)), (0, (64, 48))):
        boxes = torch.rand(many, 4, generator=generator)
        size_wh = torch.tensor(size)
        given = ask(answer, boxes.clone(), size_wh.clone())
        x = (boxes[:, 0] - boxes[:, 2] / 2) * size[0]
        y = (boxes[:, 1] - boxes[:, 3] / 2) * size[1]
        right = torch.stack([x, y, boxes[:, 2] * size[0], boxes[:, 3] * size[1]], dim=1)
        off = (same_shape(given, right, f"for {many} boxes the result") - right).abs()
        if many and not off.max() < 0.01:
            name = ("left", "top", "width", "height")[int(off.nan_to_num(1e9).amax(0).argmax())]
            raise Wrong(f"image of {size[0]} x {size[1]}: {name} is off by up to {float(off.max()):.2f} px")
