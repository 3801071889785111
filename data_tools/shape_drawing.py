"""Draw one shape with an edge of known blur, and work out what of it is hidden.

The distance to the outline comes from a table; the blurred edge is the normal distribution function of that distance
over the blur, so that no pixel is touched outside the object's own patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools.outlines import CELLS, CLASSES, REACH, distance_table, outline

LEAST_VISIBLE = 0.3  # share of the whole area; objects that show less are not drawn
_BLUR_REACH = 3.2  # standard deviations drawn on either side of an edge
_STEPS_PER_SIGMA = 256


@dataclass(frozen=True)
class Shape:
    """One object in an image: pixels, x right, y down, pixel (0, 0) covering 0 .. 1."""

    name: str
    centre: tuple[float, float]
    radius: float  # of the circle around it
    direction: tuple[float, float] = (1.0, 0.0)  # cosine and sine of its rotation
    sigma: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.5)  # optical blur of left, top, right, bottom
    motion: tuple[tuple[int, int], ...] = ((0, 0),)  # places (x, y) it was at during the exposure, around its own
    blur: str = "sharp"

    def box_xyxy(self) -> tuple[float, float, float, float]:
        """Tight box of the whole sharp shape, pixels."""
        corners = outline(self.name)[0] * self.radius
        cosine, sine = self.direction
        x = corners[:, 0] * cosine - corners[:, 1] * sine + self.centre[0]
        y = corners[:, 0] * sine + corners[:, 1] * cosine + self.centre[1]
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def edge_blur_px(self) -> list[float]:
        """Standard deviation of each edge's blur: the optical one and that of the places along its axis, combined."""
        spread = []
        for axis in (0, 1):
            places = [place[axis] for place in self.motion]
            mean = sum(places) / len(places)
            spread.append(sum((place - mean) * (place - mean) for place in places) / len(places))
        return [math.sqrt(sigma * sigma + spread[edge % 2]) for edge, sigma in enumerate(self.sigma)]


@dataclass(frozen=True, eq=False)
class Patch:
    """Signed distance of one shape on the pixels around it; `left`, `top` may lie outside the image."""

    left: int
    top: int
    distance: np.ndarray  # float32 [h, w], pixels, positive inside
    x: np.ndarray  # float32 [w], pixel centres from the shape's centre, in pixels
    y: np.ndarray  # float32 [h]


def patch_of(shape: Shape) -> Patch:
    """The signed distance to a shape on its box and the margin that its blur reaches into."""
    x1, y1, x2, y2 = shape.box_xyxy()
    reach_x = max(abs(place[0]) for place in shape.motion)
    reach_y = max(abs(place[1]) for place in shape.motion)
    margin = _BLUR_REACH * max(shape.sigma) + 1
    left, top = math.floor(x1 - margin) - reach_x, math.floor(y1 - margin) - reach_y
    right, bottom = math.ceil(x2 + margin) + reach_x, math.ceil(y2 + margin) + reach_y
    x = ((np.arange(left, right) + 0.5) - shape.centre[0]).astype(np.float32)
    y = ((np.arange(top, bottom) + 0.5) - shape.centre[1]).astype(np.float32)
    cosine, sine = shape.direction
    per_px = CELLS / (2 * REACH * shape.radius)
    end = CELLS - 0.01
    # into the shape's own frame, in cells of the distance table
    column = (x * (cosine * per_px))[None, :] + (y * (sine * per_px) + CELLS / 2)[:, None]
    row = (x * (-sine * per_px))[None, :] + (y * (cosine * per_px) + CELLS / 2)[:, None]
    np.clip(column, 0, end, out=column)
    np.clip(row, 0, end, out=row)
    first_column, first_row = column.astype(np.int32), row.astype(np.int32)
    column -= first_column
    row -= first_row
    table = distance_table(shape.name).ravel()
    place = first_row * (CELLS + 1) + first_column
    upper, lower = table.take(place), table.take(place + (CELLS + 1))
    upper += (table.take(place + 1) - upper) * column
    lower += (table.take(place + (CELLS + 2)) - lower) * column
    upper += (lower - upper) * row
    upper *= shape.radius
    return Patch(left, top, upper, x, y)


def _edge_profile_table() -> np.ndarray:
    """Blurred step: the normal distribution function over -4 .. 4, by a polynomial that needs no `exp`.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.27 (error below 0.0005).
    """
    steps = 4 * _STEPS_PER_SIGMA
    z = np.arange(steps + 1) / (_STEPS_PER_SIGMA * 1.4142135623730951)
    power = 1 + z * (0.278393 + z * (0.230389 + z * (0.000972 + z * 0.078108)))
    power = power * power
    above = 1 - 0.5 / (power * power)
    return np.concatenate([1 - above[:0:-1], above]).astype(np.float32)


_EDGE_PROFILE = _edge_profile_table()


def coverage(shape: Shape, patch: Patch) -> np.ndarray:
    """How much of each pixel the blurred shape covers: float32 `[h, w]`, 0 .. 1.

    The blur of a point is that of the edge it is nearest to, in the box's proportions; between two edges it goes over
    smoothly.
    """
    x1, y1, x2, y2 = shape.box_xyxy()
    left, top, right, bottom = shape.sigma
    if left == top == right == bottom:
        scaled = patch.distance * (_STEPS_PER_SIGMA / left)
    else:
        u = (patch.x + (shape.centre[0] - (x1 + x2) / 2)) * (2 / (x2 - x1))
        v = (patch.y + (shape.centre[1] - (y1 + y2) / 2)) * (2 / (y2 - y1))
        weight_u, weight_v = u * u, v * v
        weight_u, weight_v = weight_u * weight_u, weight_v * weight_v
        weight_u, weight_v = weight_u * weight_u, weight_v * weight_v  # u ** 8: the nearer edge decides
        total = weight_u[None, :] + (weight_v + 1e-6)[:, None]
        sigma = (weight_u * np.where(u < 0, np.float32(left), np.float32(right)))[None, :] + (
            weight_v * np.where(v < 0, np.float32(top), np.float32(bottom)) + 1e-6 * ((left + right) / 2)
        )[:, None]
        scaled = patch.distance * (total * _STEPS_PER_SIGMA) / sigma
    middle = 4 * _STEPS_PER_SIGMA
    scaled += middle + 0.5
    np.clip(scaled, 0, 2 * middle, out=scaled)
    still = _EDGE_PROFILE.take(scaled.astype(np.int32))
    if len(shape.motion) == 1:
        return still
    height, width = still.shape
    reach_x = max(abs(place[0]) for place in shape.motion)
    reach_y = max(abs(place[1]) for place in shape.motion)
    wide = np.zeros((height + 2 * reach_y, width + 2 * reach_x), np.float32)
    for right_by, down_by in shape.motion:
        wide[reach_y + down_by : reach_y + down_by + height, reach_x + right_by : reach_x + right_by + width] += still
    return wide[reach_y : reach_y + height, reach_x : reach_x + width] / len(shape.motion)


def annotate(front_to_back: Sequence[Shape], size: int) -> list[tuple[Shape, Patch, dict[str, Any]]]:
    """The objects of an image that show enough, with their annotations (no ids), in the given order.

    Args:
        front_to_back: each hides the ones after it.
        size: side of the image, pixels.

    Returns:
        For every object that is drawn, itself, its patch and its annotation.
    """
    taken = np.zeros((size, size), bool)
    kept = []
    for shape in front_to_back:
        patch = patch_of(shape)
        height, width = patch.distance.shape
        top, left = max(patch.top, 0), max(patch.left, 0)
        bottom, right = min(patch.top + height, size), min(patch.left + width, size)
        if bottom <= top or right <= left:
            continue
        whole = patch.distance > 0
        body = whole[top - patch.top : bottom - patch.top, left - patch.left : right - patch.left]
        hidden = body & taken[top:bottom, left:right]
        everything, inside, lost = (int(np.count_nonzero(mask)) for mask in (whole, body, hidden))
        if not everything or inside - lost < LEAST_VISIBLE * everything:
            continue
        box = shape.box_xyxy()
        x1, y1, x2, y2 = (min(max(value, 0.0), float(size)) for value in box)
        deep_x, deep_y = max(2, math.floor((x2 - x1) / 10 + 0.5)), max(2, math.floor((y2 - y1) / 10 + 0.5))
        columns = (math.floor(x1) - left, math.ceil(x2) - left)
        rows = (math.floor(y1) - top, math.ceil(y2) - top)
        bands = (
            np.s_[:, columns[0] : columns[0] + deep_x],
            np.s_[rows[0] : rows[0] + deep_y, :],
            np.s_[:, max(columns[1] - deep_x, 0) : columns[1]],
            np.s_[max(rows[1] - deep_y, 0) : rows[1], :],
        )
        edge_occluded = [
            round(int(np.count_nonzero(hidden[band])) / max(int(np.count_nonzero(body[band])), 1), 4) for band in bands
        ]
        annotation = {
            "category_id": CLASSES.index(shape.name) + 1,
            "bbox": [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)],
            "area": inside,
            "edge_blur_px": [round(sigma, 4) for sigma in shape.edge_blur_px()],
            "edge_occluded": edge_occluded,
            "edge_outside": [int(box[0] < 0), int(box[1] < 0), int(box[2] > size), int(box[3] > size)],
            "occluded": round(lost / inside, 4),
            "blur": shape.blur,
        }
        taken[top:bottom, left:right] |= body
        kept.append((shape, patch, annotation))
    return kept


def paint(canvas: np.ndarray, shape: Shape, patch: Patch, colour: np.ndarray) -> None:
    """Lay a shape over the canvas, float32 `[3, H, W]`; `colour` is `[3, 1, 1]`, or `[3, h, w]` on the patch."""
    height, width = patch.distance.shape
    top, left = max(patch.top, 0), max(patch.left, 0)
    bottom, right = min(patch.top + height, canvas.shape[1]), min(patch.left + width, canvas.shape[2])
    here = np.s_[top - patch.top : bottom - patch.top, left - patch.left : right - patch.left]
    ground = canvas[:, top:bottom, left:right]
    colour = np.broadcast_to(colour, (3, height, width))[(slice(None), *here)]
    ground += (colour - ground) * coverage(shape, patch)[here]
