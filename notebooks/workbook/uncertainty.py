"""Standard deviations of the edge distributions, and their correlation with known quantities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from dfine_tools.analysis.refinement import FoundObject
from dfine_tools.figures.style import as_array
from workbook.viz.edges import sides_px, std_px


@dataclass(frozen=True, eq=False)
class EdgeReadings:
    """The four edges of M found objects: left, top, right, bottom."""

    std_px: np.ndarray  # [M, 4], standard deviation of the edge's distribution
    error_px: np.ndarray  # [M, 4], distance of the predicted edge from the true one
    side_px: np.ndarray  # [M, 4], the initial box's side that the edge moves along
    image: np.ndarray  # int64 [M], which image an object is in


def edge_readings(found: Sequence[FoundObject], layer: int = -1) -> EdgeReadings:
    """What one decoder layer says of every edge, in pixels.

    Args:
        found: from `found_objects`.
        layer: 0..L-1, or counted from the end.

    Raises:
        ValueError: nothing was found.
    """
    if not found:
        raise ValueError("no object was found; lower the score that detections need")
    boxes = [as_array(one.steps.boxes_by_layer_xyxy) for one in found]
    return EdgeReadings(
        std_px=np.stack([std_px(one.steps)[layer] for one in found]),
        error_px=np.stack([np.abs(b[1:][layer] - as_array(one.ground_truth_xyxy)) for one, b in zip(found, boxes)]),
        side_px=np.stack([sides_px(b[0]) for b in boxes]),
        image=np.array([one.image for one in found]),
    )


def rank_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None) -> float:
    """Spearman's correlation, -1..1: whether the larger x, the larger y, in whatever curve.

    Args:
        x, y: `[M]`; ties share their mean rank.
        given: `[M]`, a third quantity whose effect on both is removed first (partial rank correlation).

    Returns:
        Not a number where x, y, or what is left of them, is constant.

    Raises:
        ValueError: lengths differ, or there are fewer than three values.
    """
    columns = [np.asarray(each, dtype=np.float64) for each in (x, y) + (() if given is None else (given,))]
    if any(column.shape != columns[0].shape or column.ndim != 1 for column in columns) or len(columns[0]) < 3:
        raise ValueError(f"at least three values each, as many as of the others; got {[c.shape for c in columns]}")
    ranks = [rankdata(column) for column in columns]
    ranks = [each - each.mean() for each in ranks]
    if given is not None:
        control = ranks.pop()
        weight = control @ control
        ranks = [each - (each @ control / weight) * control for each in ranks] if weight else ranks
    length = np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1]))
    return float(ranks[0] @ ranks[1] / length) if length > 1e-9 else float("nan")


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """How far a number would move had other images been drawn: percentile bootstrap over whole groups.

    Values of one image are correlated, so images are drawn anew (with replacement), not values.

    Args:
        statistic: from indices int64 `[K]` into the values to a number.
        groups: `[M]`, the group (image) of each value.
        draws: resamples.
        level: fraction of them inside the interval.
        seed: of the draws.

    Raises:
        ValueError: fewer than two groups.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError("an interval needs values of at least two images")
    order = np.argsort(group_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group_of))[:-1])
    generator = np.random.default_rng(seed)
    values = [
        statistic(np.concatenate([members[g] for g in generator.integers(0, len(names), len(names))]))
        for _ in range(draws)
    ]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
