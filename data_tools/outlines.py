"""The outlines of the synthetic classes, and tables of the distance to them.

Every outline is one or two polygons inside the unit circle (x right, y down). Curves are polygons of many corners, so
that one exact formula serves all classes. Corners come from literals and square roots only, never from `sin` or `cos`,
whose last bit depends on the machine.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from dfine_lib.errors import DfineError

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "arrow", "heart", "bar")
REACH = 1.7  # a distance table covers -REACH .. REACH
CELLS = 224  # cells a side of a distance table

Point = tuple[float, float]

# cosine and sine of multiples of 36 degrees, from straight up, clockwise
_TENTHS = (
    (0.0, -1.0),
    (0.5877852522924731, -0.8090169943749475),
    (0.9510565162951535, -0.30901699437494745),
    (0.9510565162951535, 0.30901699437494745),
    (0.5877852522924731, 0.8090169943749475),
    (0.0, 1.0),
    (-0.5877852522924731, 0.8090169943749475),
    (-0.9510565162951535, 0.30901699437494745),
    (-0.9510565162951535, -0.30901699437494745),
    (-0.5877852522924731, -0.8090169943749475),
)


def _circle() -> list[Point]:
    """64 points of the unit circle from (1, 0) on, by halving angles four times."""
    points: list[Point] = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]
    for _ in range(4):
        finer = []
        for (x, y), (next_x, next_y) in zip(points, points[1:] + points[:1], strict=True):
            length = math.sqrt((x + next_x) * (x + next_x) + (y + next_y) * (y + next_y))
            finer += [(x, y), ((x + next_x) / length, (y + next_y) / length)]
        points = finer
    return points


def _crescent() -> list[Point]:
    """The unit disc without a disc of radius 0.8 about (0.45, 0)."""
    radius, centre = 0.8, 0.45
    tip_x = (1 - radius * radius + centre * centre) / (2 * centre)
    tip_y = math.sqrt(1 - tip_x * tip_x)
    outer = [point for point in _circle() if point[0] < tip_x]
    inner = [(centre + radius * x, radius * y) for x, y in _circle() if centre + radius * x < tip_x]
    return [(tip_x, tip_y), *outer, (tip_x, -tip_y), *inner[::-1]]


def _heart() -> list[Point]:
    """A square on its corner with half a disc on each of its two upper sides."""
    radius = math.sqrt(0.5)
    left = [(-0.5 + radius * x, -0.5 + radius * y) for x, y in _circle() if x + y < 1e-9]
    return [(0.0, 1.0), *left, *[(-x, y) for x, y in left[-2::-1]]]


def _raw_outline(name: str) -> list[list[Point]]:
    if name == "circle":
        return [_circle()]
    if name == "square":
        return [[(-1, -1), (1, -1), (1, 1), (-1, 1)]]
    if name == "triangle":
        return [[_up(0, 1), (0.8660254037844386, 0.5), (-0.8660254037844386, 0.5)]]
    if name == "star":
        return [[_up(corner, 0.42 if corner % 2 else 1.0) for corner in range(10)]]
    if name == "cross":
        near, far = 0.32, 1.0
        arm = [(near, -near), (near, -far), (-near, -far)]
        return [[turned for quarter in range(4) for turned in _quarter_turns(arm, quarter)]]
    if name == "ring":
        return [_circle(), [(0.55 * x, 0.55 * y) for x, y in _circle()]]
    if name == "crescent":
        return [_crescent()]
    if name == "arrow":
        right = [(0.0, -1.0), (0.78, -0.1), (0.28, -0.1), (0.28, 1.0)]
        return [[*right, *[(-x, y) for x, y in right[:0:-1]]]]
    if name == "heart":
        return [_heart()]
    if name == "bar":
        return [[(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)]]
    raise DfineError(f"unknown class {name!r}; the classes are {', '.join(CLASSES)}")


def _up(tenth: int, length: float) -> Point:
    return _TENTHS[tenth][0] * length, _TENTHS[tenth][1] * length


def _quarter_turns(points: list[Point], quarters: int) -> list[Point]:
    for _ in range(quarters):
        points = [(y, -x) for x, y in points]
    return points


@cache
def outline(name: str) -> tuple[np.ndarray, ...]:
    """Polygons, float64 `[corners, 2]`, of a class; a second polygon is a hole.

    Centred on the middle of the box of the upright shape; the farthest corner has distance 1.

    Raises:
        ValueError: no such class.
    """
    polygons = [np.array(polygon, np.float64) for polygon in _raw_outline(name)]
    centre = (polygons[0].min(0) + polygons[0].max(0)) / 2
    offset = polygons[0] - centre
    farthest = math.sqrt((offset * offset).sum(1).max())  # two terms a row: no order to get wrong
    return tuple((polygon - centre) / farthest for polygon in polygons)


@cache
def distance_table(name: str) -> np.ndarray:
    """float32 `[CELLS + 1, CELLS + 1]`: signed distance to the outline at grid points, positive inside.

    Row i stands for y = -REACH + 2 REACH i / CELLS, columns likewise for x; the unit is the outline's.
    """
    axis = np.arange(CELLS + 1) * (2 * REACH / CELLS) - REACH
    x, y = axis[None, :], axis[:, None]
    squared = np.full((CELLS + 1, CELLS + 1), np.inf)
    inside = np.zeros(squared.shape, bool)
    for polygon in outline(name):
        for (x1, y1), (x2, y2) in zip(polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), strict=True):
            along_x, along_y = x2 - x1, y2 - y1
            share = ((x - x1) * along_x + (y - y1) * along_y) / (along_x * along_x + along_y * along_y)
            share = np.minimum(np.maximum(share, 0), 1)
            off_x, off_y = x - x1 - share * along_x, y - y1 - share * along_y
            np.minimum(squared, off_x * off_x + off_y * off_y, out=squared)
            if y1 != y2:
                crossed = (y >= min(y1, y2)) & (y < max(y1, y2)) & (x < x1 + (y - y1) * (along_x / along_y))
                inside ^= crossed
    distance = np.sqrt(squared)
    return np.where(inside, distance, -distance).astype(np.float32)
