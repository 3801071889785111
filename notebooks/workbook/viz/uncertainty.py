"""Uncertainty of the edge distributions: standard deviation against blur, correlations with intervals, coverage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dfine_tools.figures.style import (
    INK,
    MAIN,
    MUTED,
    SECOND,
    Figure,
    as_array,
    layer_colours,
    name_bars,
    new_figure,
    styled,
)
from workbook.viz.edges import EDGES


@styled
def std_by_blur(blur_px: Any, std_px: Any, bands: Sequence[float] = (0, 0.55, 0.7, 1.5, 2.5, 9)) -> Figure:
    """Predicted standard deviation of each edge over its true blur, one panel an edge, with quartiles in bands of blur.

    Args:
        blur_px, std_px: `[M, 4]`, left, top, right, bottom; not a number leaves an edge out.
        bands: bounds of the bands, pixels of blur, rising.

    Raises:
        ValueError: shapes other than `[M, 4]`.
    """
    blur, std = as_array(blur_px), as_array(std_px)
    if blur.shape != std.shape or blur.ndim != 2 or blur.shape[1] != 4:
        raise ValueError(f"blur and std must be [M, 4], got {list(blur.shape)} and {list(std.shape)}")
    known = np.isfinite(blur) & np.isfinite(std)
    words = []
    figure = new_figure(11, 3.7, "")
    for e, axes in enumerate(figure.subplots(1, 4, sharey=True, sharex=True)):
        x, y = blur[known[:, e], e], std[known[:, e], e]
        axes.scatter(x, y, s=6, color=MUTED, alpha=0.35, linewidths=0)
        middles, quartiles = [], []
        for low, high in itertools.pairwise(bands):
            inside = (x >= low) & (x < high)
            if inside.sum() >= 5:
                middles.append(float(np.median(x[inside])))
                quartiles.append(np.quantile(y[inside], [0.25, 0.5, 0.75]))
        low, median, high = np.array(quartiles).T if quartiles else np.zeros((3, 0))
        axes.errorbar(middles, median, [median - low, high - median], color=MAIN, marker="o", capsize=3, label="median")
        axes.set_title(EDGES[e])
        axes.set_xlabel("true blur of the edge, px")
        if len(median):
            words.append(
                f"{EDGES[e]} {median[0]:.2f} px at blur {middles[0]:.1f} to {median[-1]:.2f} at {middles[-1]:.1f}"
            )
    first = figure.axes[0]
    first.set(xscale="log", yscale="log", ylabel="predicted standard deviation, px")
    ticks = [0.5, 1, 2, 4]
    first.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    first.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    for axes in figure.axes:
        axes.minorticks_off()
    first.legend(["one edge", "median, interquartile range"], loc="upper left")
    figure.alt_text = f"Predicted standard deviation of edges over their true blur, median: {'; '.join(words)}."
    return figure


@styled
def correlations(intervals: Mapping[str, tuple[float, float, float]], xlabel: str = "Spearman's correlation") -> Figure:
    """Correlations with their intervals, one below the other, beside the line of none.

    Args:
        intervals: value, lower and upper end of its interval, by name.
        xlabel: what the values are.
    """
    words = "; ".join(
        f"{name} {value:+.2f} ({low:+.2f} to {high:+.2f})" for name, (value, low, high) in intervals.items()
    )
    figure = new_figure(9, 1.2 + 0.36 * len(intervals), f"{xlabel} with its interval: {words}.")
    axes = figure.subplots()
    for row, (value, low, high) in enumerate(intervals.values()):
        certain = low > 0 or high < 0
        axes.plot([low, high], [row, row], color=MAIN if certain else MUTED, linewidth=2.2)
        axes.plot(value, row, marker="o", markersize=7, color=MAIN if certain else MUTED)
        axes.text(high, row - 0.2, f" {value:+.2f}", va="center", fontsize=9)
    axes.axvline(0, color=INK, linewidth=1)
    name_bars(axes, list(intervals))
    axes.set_ylim(len(intervals) - 0.4, -0.7)
    axes.set_xlabel(f"{xlabel}, −1 to 1")
    return figure


@styled
def coverage(fractions: Mapping[str, Any], multiples: Any) -> Figure:
    """Fraction of ground-truth edges within multiples of σ of the predicted ones, and that of a normal distribution.

    Args:
        fractions: `[K]` 0..1, by name.
        multiples: `[K]`, how many standard deviations.
    """
    at = as_array(multiples)
    normal = np.array([math.erf(m / math.sqrt(2)) for m in at])
    curves = {name: as_array(values) for name, values in fractions.items()}
    words = "; ".join(
        f"{name}: {', '.join(f'{100 * s:.0f} % within {m:g}' for m, s in zip(at, values, strict=True) if m in (1, 2))}"
        for name, values in curves.items()
    )
    figure = new_figure(7.5, 3.8, f"True edges within multiples of σ of the prediction: {words} (normal: 68 %, 95 %).")
    axes = figure.subplots()
    axes.plot(at, 100 * normal, color=SECOND, linestyle="--", label="normal distribution")
    for (name, values), colour in zip(curves.items(), layer_colours(len(curves) + 1)[1:], strict=True):
        axes.plot(at, 100 * values, color=colour, marker="o", label=name)
    axes.set_ylim(0, 103)
    axes.set(xlabel="distance from the prediction, in standard deviations", ylabel="true edges inside, %")
    axes.legend(loc="lower right")
    return figure
