"""What a box edge is to D-FINE: a distribution over offsets, refined layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dfine_tools.figures.style import INK, Figure, as_array, class_colour, layer_colours, new_figure, styled
from workbook.viz.detections import draw_boxes_by_layer
from workbook.viz.edges import EDGES, bin_axis, bin_of, distributions, mark_true_edge, offsets_to, sides_px


@styled
def edge_distributions(
    image: Any,
    corner_logits_by_layer: Any,
    boxes_by_layer_xyxy: Any,
    bin_offsets: Any,
    ground_truth_xyxy: Any | None = None,
    title: str = "",
) -> Figure:
    """One object: its four edge distributions after every layer, beside the image with its boxes.

    The bins stand evenly spaced, as the network sees them; the tick labels tell which offset each stands for.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1, in the pixels of the boxes.
        corner_logits_by_layer: `[L, 4, N + 1]`; edges left, top, right, bottom.
        boxes_by_layer_xyxy: `[L + 1, 4]` pixels, the initial box first.
        bin_offsets: W, `[N + 1]`, as a fraction of the box side.
        ground_truth_xyxy: `[4]` pixels.
        title: above the image, such as the class and its score.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    probabilities = distributions(corner_logits_by_layer, boxes_by_layer_xyxy, bin_offsets)
    boxes, offsets = as_array(boxes_by_layer_xyxy), as_array(bin_offsets)
    means = probabilities @ offsets  # [L, 4], fraction of the side
    true_offsets = None if ground_truth_xyxy is None else offsets_to(ground_truth_xyxy, boxes[0])
    words = "; ".join(
        f"{edge} {_signed(100 * means[0, e])} to {_signed(100 * means[-1, e])} % of the side"
        for e, edge in enumerate(EDGES)
    )
    layers = len(probabilities)
    figure = new_figure(
        12, 5.4, f"Edge distributions of one object over {layers} decoder layers, mean offset first to last: {words}."
    )
    mosaic = figure.subplot_mosaic([["image", "left", "top"], ["image", "right", "bottom"]], width_ratios=(1.15, 1, 1))
    draw_boxes_by_layer(mosaic["image"], image, boxes, ground_truth_xyxy)
    mosaic["image"].set_title(title or "initial and refined boxes")
    mosaic["image"].legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, handlelength=1.4, columnspacing=1.2
    )
    for e, edge in enumerate(EDGES):
        axes = mosaic[edge]
        _one_edge(axes, probabilities[:, e], means[:, e], offsets)
        if true_offsets is not None:
            mark_true_edge(axes, true_offsets[e], offsets)
        axes.set_title(f"{edge}: {_signed(100 * means[-1, e])} %, {_signed(means[-1, e] * sides_px(boxes[0])[e])} px")
        axes.set_xlabel(f"offset, % of box {'width' if e % 2 == 0 else 'height'} (+ is outward)")
        axes.set_ylabel("probability")
    return figure


def _one_edge(axes: Axes, probabilities: np.ndarray, means: np.ndarray, offsets: np.ndarray) -> None:
    """`[L, N + 1]` probabilities as lines, their means as marks on the axis."""
    bins, colours = np.arange(len(offsets)), layer_colours(len(probabilities))
    axes.fill_between(bins, probabilities[-1], color=colours[-1], alpha=0.15, linewidth=0, step="mid")
    for number, (row, colour) in enumerate(zip(probabilities, colours, strict=True), start=1):
        axes.step(bins, row, where="mid", color=colour, linewidth=1.0 + number / len(colours), label=f"layer {number}")
    top = 1.15 * probabilities.max()
    axes.set_ylim(0, top)
    at = bin_of(means, offsets)
    axes.scatter(at, np.full(len(at), 0.96 * top), marker="v", c=colours, s=34, zorder=3, label="_means")
    middle = len(offsets) // 2
    reach = sorted({round(middle * f) for f in (0.3, 0.65, 1.0)})
    bin_axis(axes, offsets, [*(middle - r for r in reversed(reach)), middle, *(middle + r for r in reach)])


@styled
def weighting_function_figure(bin_offsets: Mapping[str, Any] | Sequence[float] | Any) -> Figure:
    """Which offset each bin stands for, and how far apart neighbours are.

    Args:
        bin_offsets: W, `[N + 1]`, as a fraction of the box side; or several, by name.
    """
    curves = bin_offsets if isinstance(bin_offsets, Mapping) else {"W(n)": bin_offsets}
    curves = {name: as_array(values) for name, values in curves.items()}
    ends = {name: [f"{x:.2g}" if x < 10 else f"{x:.0f}" for x in 100 * np.sort(np.diff(w))]
            for name, w in curves.items()}  # fmt: skip
    parts = "; ".join(
        f"{name}: {len(w)} bins, steps from {ends[name][0]} to {ends[name][-1]} % of the side"
        for name, w in curves.items()
    )
    figure = new_figure(10, 3.9, f"Offset of each bin of an edge distribution, and the distance between bins. {parts}.")
    where, steps = figure.subplots(1, 2)
    for number, (name, w) in enumerate(curves.items()):
        look = dict(
            linestyle=("-", "--", "-.", ":")[number % 4], marker="o", markersize=3.2, color=class_colour(number)
        )
        where.plot(np.arange(len(w)), 100 * w, label=name, **look)
        steps.plot(np.arange(len(w) - 1) + 0.5, 100 * np.diff(w), label=name, **look)
    where.axhline(0, color=INK, linewidth=0.8)
    where.set(title="what bin n stands for", xlabel="bin n", ylabel="offset, % of the box side")
    steps.set(
        title="how far apart neighbouring bins are", xlabel="between bins n and n + 1", ylabel="step, % of the box side"
    )
    steps.set_yscale("log")
    steps.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    steps.minorticks_off()
    if len(curves) > 1:
        where.legend()
    return figure


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # never -0.0
