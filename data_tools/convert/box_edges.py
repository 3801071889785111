"""Boxes of one image: to pixels, into the upright frame, and cut at its edges."""

from __future__ import annotations

from data_tools.convert.records import Box
from data_tools.image_frames import Edges

SMALLEST = 1e-6  # pixels; a side below is no side


def to_pixels(boxes: list[Box], size: tuple[int, int]) -> None:
    """From fractions of an image of this width and height, in place."""
    for box in boxes:
        box.left, box.width = box.left * size[0], box.width * size[0]
        box.top, box.height = box.top * size[1], box.height * size[1]


def move(box: Box, edges: Edges, scale: tuple[float, float]) -> None:
    """Give a box new edges, and its outline's area the scale."""
    left, top, right, bottom = edges
    box.left, box.top, box.width, box.height = left, top, right - left, bottom - top
    if box.area is not None:
        box.area *= scale[0] * scale[1]


def reach(boxes: list[Box]) -> Edges | None:
    """Smallest left and top, largest right and bottom edge; None where there is no box."""
    if not boxes:
        return None
    return (
        min(box.left for box in boxes), min(box.top for box in boxes),
        max(box.left + box.width for box in boxes), max(box.top + box.height for box in boxes),
    )  # fmt: skip


def cut(box: Box, width: int, height: int, keep_outside: bool) -> float | str:
    """Cut a box at the edges of its image.

    Args:
        box: in pixels.
        width: of the image.
        height: of the image.
        keep_outside: leave a box that sticks out as it is.

    Returns:
        By how many pixels it stuck out, at most 0 where it did not; or why nothing of it is left.
    """
    if box.width < 0 or box.height < 0:
        return "negative width or height"
    if box.width < SMALLEST or box.height < SMALLEST:
        return "no area"
    right, bottom = box.left + box.width, box.top + box.height
    out_by = max(-box.left, -box.top, right - width, bottom - height)
    if box.left >= width or box.top >= height or right <= 0 or bottom <= 0:
        return "wholly outside of its image"
    if out_by > 1e-9 and not keep_outside:
        area = box.width * box.height
        left, top = max(box.left, 0.0), max(box.top, 0.0)
        box.left, box.top, box.width, box.height = left, top, min(right, width) - left, min(bottom, height) - top
        if box.area is not None:  # of an outline, or of the whole box
            box.area = None if abs(box.area - area) < 1e-3 * area else min(box.area, box.width * box.height)
        if box.width < SMALLEST or box.height < SMALLEST:
            return "wholly outside of its image"
    return out_by
