"""Edge distributions of the first and the last layer beside each other, and what they do under which condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from dfine_tools.figures.style import INK, MAIN, SECOND, Figure, as_array, draw_box, layer_colours, new_figure, styled
from workbook.viz.detections import draw_boxes_by_layer
from workbook.viz.edges import EDGES, bin_axis, bin_of, distributions, mark_true_edge, offsets_to, std_px

_FIRST, _LAST = layer_colours(3)[0], layer_colours(3)[-1]


@styled
def distribution_gallery(
    images: Sequence[Any], steps: Sequence[Any], ground_truths_xyxy: Sequence[Any], titles: Sequence[str]
) -> Figure:
    """One object a row: its initial and last box, and each edge's distribution after the first and the last layer.

    Args:
        images: the image of each object, `[3, H, W]` or `[H, W, 3]`.
        steps: for each object `boxes_by_layer_xyxy` `[L + 1, 4]` pixels, `corner_logits_by_layer` `[L, 4, N + 1]` and
            `bin_offsets` `[N + 1]` as a fraction of the box side (a `Refinement` has them).
        ground_truths_xyxy: for each object `[4]` pixels.
        titles: for each object, such as its condition.

    Raises:
        ValueError: lists of unequal length, or none.
    """
    if not len(images) == len(steps) == len(ground_truths_xyxy) == len(titles) or not len(images):
        raise ValueError("give an image, steps, a ground truth and a title for each object, and at least one object")
    words = []
    with mpl.rc_context({"figure.dpi": 84}):  # so many panels: half the bytes
        figure = new_figure(12, 1.95 * len(images) + 0.4, "")
    grid = figure.subplots(len(images), 5, width_ratios=(1.05, 1, 1, 1, 1), squeeze=False)
    for row, image, one, ground_truth, title in zip(grid, images, steps, ground_truths_xyxy, titles, strict=True):
        stds, edges, offsets = std_px(one), _distributions(one), as_array(one.bin_offsets)
        _first_and_last_box(row[0], image, as_array(one.boxes_by_layer_xyxy), ground_truth)
        row[0].set_title(title, fontsize=10)
        true_offsets, shown = offsets_to(ground_truth, _initial(one)), _shown_bins(edges)
        for e, axes in enumerate(row[1:]):
            _first_and_last(axes, edges[[0, -1], e], offsets, true_offsets[e], shown)
            axes.set_ylim(0, 1.2 * edges[[0, -1]].max())
            _mark_means(axes, edges[[0, -1], e] @ offsets, offsets)
            axes.set_title(f"{EDGES[e]}: {stds[0, e]:.1f} to {stds[-1, e]:.1f} px", fontsize=9.5)
            axes.tick_params(labelsize=8)
        row[1].set_ylabel("probability")
        words.append(f"{title.replace(chr(10), ', ')}: {stds[0].mean():.1f} to {stds[-1].mean():.1f} px")
    for axes in grid[-1, 1:]:
        axes.set_xlabel("offset, % of side (+ outward)", fontsize=9)
    figure.legend(*_named(grid[0, :2]), loc="outside lower center", ncols=8)
    figure.alt_text = f"Edge distributions, mean σ of four edges from first to last layer. {'; '.join(words)}."
    return figure


@styled
def first_and_last_layer(image: Any, steps: Any, ground_truth_xyxy: Any, title: str = "") -> Figure:
    """One object: edge distributions of the first and the last layer, plain above and times W(n) below.

    The bars below are what each bin adds to the edge's offset: their sum is the offset.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1.
        steps: as in `distribution_gallery`.
        ground_truth_xyxy: `[4]` pixels.
        title: above the image.

    Raises:
        ValueError: logits, boxes and offsets do not fit each other.
    """
    offsets, edges = as_array(steps.bin_offsets), _distributions(steps)
    true_offsets = offsets_to(ground_truth_xyxy, _initial(steps))
    means = 100 * edges @ offsets
    words = "; ".join(f"{edge} {means[0, e]:+.1f} to {means[-1, e]:+.1f} %" for e, edge in enumerate(EDGES))
    figure = new_figure(
        12,
        4.6,
        f"{title}: distributions of four edges, plain and weighted. Offset from first to last layer: {words}.",
    )
    boxes_axes, rest = figure.subfigures(1, 2, width_ratios=(1, 4))
    where = boxes_axes.subplots()
    _first_and_last_box(where, image, as_array(steps.boxes_by_layer_xyxy), ground_truth_xyxy)
    where.set_title(title, fontsize=10.5)
    where.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02))
    grid = rest.subplots(2, 4, sharex=True, sharey="row")
    shown, stds = _shown_bins(edges), std_px(steps)
    for e in range(4):
        plain, weighted = grid[:, e]
        _first_and_last(plain, edges[[0, -1], e], offsets, true_offsets[e], shown)
        _mark_means(plain, means[[0, -1], e] / 100, offsets)
        plain.set_title(f"{EDGES[e]}\nσ {stds[0, e]:.1f} to {stds[-1, e]:.1f} px", fontsize=10)
        _first_and_last(weighted, 100 * offsets * edges[[0, -1], e], offsets, true_offsets[e], shown)
        weighted.axhline(0, color=INK, linewidth=0.8)
        weighted.set_title(f"sum {means[0, e]:+.1f} to {means[-1, e]:+.1f} %", fontsize=10)
        weighted.set_xlabel("offset W(n), % of side")
    grid[0, 0].set_ylim(0, 1.2 * edges[[0, -1]].max())
    grid[0, 0].set_ylabel("probability Pr(n)")
    grid[1, 0].set_ylabel("W(n) · Pr(n), % of side")
    rest.legend(*_named(grid[:1, 0]), loc="outside lower center", ncols=5)
    return figure


@styled
def means_by_condition(panels: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Means with their intervals, condition by condition; one panel a measure, one mark a series.

    Args:
        panels: by the panel's title (what is measured, in which unit), by series and by condition:
            mean, low and high end of its interval.

    Raises:
        ValueError: series of one panel with other conditions.
    """
    words = []
    figure = new_figure(5.6 * len(panels), 4.0, "")
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        conditions = list(next(iter(series.values())))
        looks = [(SECOND, "s"), (MAIN, "o"), (INK, "^")]
        for number, (name, values) in enumerate(series.items()):
            if list(values) != conditions:
                raise ValueError(f"{title}: {name} has the conditions {list(values)}, not {conditions}")
            mean, low, high = np.array([as_array(values[condition]) for condition in conditions]).T
            at = np.arange(len(conditions)) + 0.22 * (number - (len(series) - 1) / 2)
            colour, marker = looks[number % 3]
            axes.errorbar(
                at, mean, [mean - low, high - mean], fmt=marker, color=colour, markersize=7, capsize=4, label=name
            )
            words.append(
                f"{title}, {name}: " + ", ".join(f"{c} {m:.2f}" for c, m in zip(conditions, mean, strict=True))
            )
        axes.set_xticks(range(len(conditions)), conditions)
        axes.set_xlim(-0.5, len(conditions) - 0.5)
        axes.set_title(title)
        axes.legend()
    figure.alt_text = f"Means with 95 % intervals by condition. {'; '.join(words)}."
    return figure


def _distributions(steps: Any) -> np.ndarray:
    return distributions(steps.corner_logits_by_layer, steps.boxes_by_layer_xyxy, steps.bin_offsets)


def _initial(steps: Any) -> np.ndarray:
    return as_array(steps.boxes_by_layer_xyxy)[0]


def _shown_bins(edges: np.ndarray) -> tuple[int, int]:
    """First and last bin to show, the same for all edges: those around which anything stands."""
    used = np.flatnonzero((edges[[0, -1]] > 0.015).any((0, 1)))
    middle = edges.shape[-1] // 2
    reach = max(5, middle - used.min(), used.max() - middle) + 1
    return max(middle - reach, 0), min(middle + reach, edges.shape[-1] - 1)


def _first_and_last_box(axes: Axes, image: Any, boxes: np.ndarray, ground_truth_xyxy: Any) -> None:
    """The surroundings of an object with its initial box (dashed), the last box (dark), the ground truth (dotted)."""
    draw_boxes_by_layer(axes, image, boxes[:1], ground_truth_xyxy)
    draw_box(axes, boxes[-1], _LAST, width=1.8)
    for box, name in zip(axes.patches, ("ground truth", "initial box", "last box"), strict=True):
        box.set_label(name)


def _mark_means(axes: Axes, means: np.ndarray, offsets: np.ndarray) -> None:
    """Triangles at the top: the mean offset after the first layer (pale) and the last (dark)."""
    for mean, colour, name in zip(means, (_FIRST, _LAST), ("first mean", "last mean"), strict=True):
        axes.plot(
            bin_of(mean, offsets), 0.93, marker="v", markersize=8, linestyle="", color=colour, markeredgecolor=_LAST,
            label=name, transform=axes.get_xaxis_transform(), zorder=4,
        )  # fmt: skip


def _named(several: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of all that has a name on these axes."""
    pairs = [pair for axes in several for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    return [handle for handle, _ in pairs], [label for _, label in pairs]


def _first_and_last(
    axes: Axes, values: np.ndarray, offsets: np.ndarray, true_offset: float, shown: tuple[int, int]
) -> None:
    """Values by bin after two layers: the first as pale bars, the last as a dark outline; the true edge dotted."""
    borders = np.arange(len(offsets) + 1) - 0.5
    axes.stairs(values[0], borders, fill=True, color=_FIRST, alpha=0.55, label="first layer")
    axes.stairs(values[1], borders, color=_LAST, linewidth=1.9, label="last layer")
    mark_true_edge(axes, true_offset, offsets)
    low, high = shown
    middle = len(offsets) // 2
    reach = high - middle
    ticks = [middle - reach + 1, middle - reach // 2, middle, middle + reach // 2, middle + reach - 1]
    bin_axis(axes, offsets, ticks, axes.get_xlabel())
    axes.set_xlim(low - 0.5, high + 0.5)
