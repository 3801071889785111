"""Checkers of lesson 51."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbook.exercises.registry import Wrong, ask, exercise


@exercise("51.1")
def steps_in_all(answer: Callable[[int, int, int], int]) -> None:
    """Optimizer steps of a run whose incomplete last batches are dropped."""
    for images, batch_size, epochs in ((60, 8, 5), (874, 8, 26), (64, 8, 1), (7, 2, 10)):
        given, right = ask(answer, images, batch_size, epochs), (images // batch_size) * epochs
        if given != right:
            raise Wrong(f"{images} images in batches of {batch_size}, {epochs} epochs: {right} steps, you say {given}")


@exercise("51.2")
def boxes_by_class(answer: Callable[[Mapping[str, Any]], Mapping[str, int]]) -> None:
    """How many boxes each class has, by name, in a COCO file's content; classes without any included."""
    categories = [{"id": 4, "name": "bolt"}, {"id": 9, "name": "nut"}, {"id": 2, "name": "gear"}]
    for ids, right in (
        ((4, 4, 9), {"bolt": 2, "nut": 1, "gear": 0}),
        ((), {"bolt": 0, "nut": 0, "gear": 0}),
        ((2, 9, 2, 2), {"bolt": 0, "nut": 1, "gear": 3}),
    ):
        annotations = [{"id": i, "image_id": 1, "category_id": c, "bbox": [0, 0, 9, 9]} for i, c in enumerate(ids)]
        given = ask(answer, {"images": [{"id": 1}], "annotations": annotations, "categories": categories})
        if dict(given) != right:
            raise Wrong(f"with category ids {list(ids)} the counts are {right}, yours are {dict(given)}")


@exercise("51.3")
def smallest_side(answer: Callable[[list[tuple[float, float, float, float]], int, int, int], float]) -> None:
    """The shortest side of any box, in pixels of the network's input."""
    for boxes_xywh, width, height, side in (
        ([(0, 0, 100, 50)], 1000, 500, 640),
        ([(10, 10, 40, 30), (5, 5, 12, 200)], 1920, 1080, 320),
        ([(0, 0, 8, 8)], 160, 320, 160),
    ):
        right = min(min(w * side / width, h * side / height) for _, _, w, h in boxes_xywh)
        given = float(ask(answer, list(boxes_xywh), width, height, side))
        if not abs(given - right) < 1e-3 * right:
            raise Wrong(
                f"boxes {boxes_xywh} of a {width} x {height} image at {side} px: {right:.2f} px, yours is {given:.2f}"
            )
