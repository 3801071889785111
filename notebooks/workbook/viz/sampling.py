"""Where queries look: sampling between cells, the first directions of heads, sampling locations on the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from dfine_tools.figures.style import (
    INK,
    MAIN,
    MUTED,
    Figure,
    as_array,
    as_rgb,
    class_colour,
    draw_box,
    draw_ground_truth,
    layer_colours,
    name_bars,
    new_figure,
    show_image,
    styled,
)


@styled
def bilinear_reading(values: Any, location: Sequence[float]) -> Figure:
    """One location of a small feature map: the four cells around it, and the weight of each.

    Args:
        values: `[h, w]`.
        location: x and y, 0..1 inside the map.

    Raises:
        ValueError: not a map, or a location outside of it.
    """
    cells, (x, y) = as_array(values), location
    if cells.ndim != 2 or not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"a map [h, w] and a location in 0..1 are wanted, got {list(cells.shape)} and {(x, y)}")
    h, w = cells.shape
    column, row = x * w - 0.5, y * h - 0.5  # 0 in the middle of the first cell
    left, above = int(np.floor(column)), int(np.floor(row))
    parts = {
        (above + j, left + i): (1 - abs(row - above - j)) * (1 - abs(column - left - i)) for j in (0, 1) for i in (0, 1)
    }
    inside = {cell: weight for cell, weight in parts.items() if 0 <= cell[0] < h and 0 <= cell[1] < w}
    reading = sum(weight * cells[cell] for cell, weight in inside.items())
    words = ", ".join(f"{weight:.2f} of {cells[cell]:g}" for cell, weight in inside.items() if weight > 1e-6)
    figure = new_figure(
        9.6, 3.9, f"Reading a map of {h} x {w} cells at x = {x:g}, y = {y:g}: {words}; in all {reading:.3g}."
    )
    grid, chart = figure.subplots(1, 2, width_ratios=(1.3, 1))
    span = np.ptp(cells) or 1.0
    grid.imshow(cells, cmap="Greys", vmin=cells.min() - 0.1 * span, vmax=cells.max() + 1.2 * span)
    for (j, i), value in np.ndenumerate(cells):
        grid.text(i, j - 0.27, f"{value:g}", ha="center", va="center", fontsize=12, color=INK)
        grid.plot(i, j, ".", color=MUTED, markersize=4)
    grid.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=MAIN, linewidth=2.2))
    grid.plot(column, row, "X", color=MAIN, markersize=10, markeredgecolor="white")
    grid.set_xticks(np.arange(w + 1) - 0.5, [f"{i / w:.3g}" for i in range(w + 1)])
    grid.set_yticks(np.arange(h + 1) - 0.5, [f"{j / h:.3g}" for j in range(h + 1)])
    grid.grid(True, axis="both", color="white", linewidth=1.5)
    grid.set(title="a cell-sized square around the location", xlabel="x", ylabel="y")
    grid.set_axisbelow(False)
    names = [f"row {j + 1}, column {i + 1}\n{cells[j, i]:g} × {weight:.2f}" for (j, i), weight in inside.items()]
    bars = np.array(list(inside.values()))
    chart.barh(np.arange(len(bars)), bars, color=MAIN, height=0.62)
    for n, weight in enumerate(bars):
        chart.text(weight + 0.02, n, f"{weight:.2f}", va="center", fontsize=10)
    name_bars(chart, names)
    chart.set_xlim(0, max(1.3 * bars.max(), 0.2))
    chart.grid(False)
    chart.set(title=f"weights; in all {reading:.3g} is sampled", xlabel="weight")
    return figure


@styled
def starting_locations(locations: Any, points_per_level: Sequence[int]) -> Figure:
    """Sampling locations around a reference box, level by level, every head with its number.

    Args:
        locations: `[heads, P, 2]`, x and y in half sides of the box from its centre: the box spans -1 to 1.
        points_per_level: they sum to P.

    Raises:
        ValueError: the points of the levels do not sum to P.
    """
    at = _with_points(locations, points_per_level)
    heads, reach = len(at), float(np.abs(at).max())
    figure = new_figure(
        7.6,
        3.8,
        f"Sampling locations of {heads} heads around a reference box on {len(points_per_level)} levels with "
        f"{_listed(points_per_level)} points each; the outermost lies {reach:.2f} half sides from the centre.",
    )
    panels = figure.subplots(1, len(points_per_level), squeeze=False)[0]
    for level, (axes, part) in enumerate(zip(panels, _levels(at, points_per_level, 1), strict=True)):
        _unit_box(axes, max(1.25, 1.15 * reach))
        for head in range(heads):
            colour = class_colour(head)
            axes.plot(*np.vstack([[0, 0], part[head]]).T, color=colour, linewidth=1, alpha=0.6)
            axes.plot(*part[head].T, "o", color=colour, markersize=5)
            _number(axes, part[head, -1], head, colour)
        axes.set_title(f"level {level + 1}: {part.shape[1]} points a head")
        axes.set_xlabel("x, half sides from the centre")
    panels[0].set_ylabel("y, half sides from the centre")
    return figure


@styled
def sampling_points(
    image: Any,
    locations: Any,
    weights: Any,
    points_per_level: Sequence[int],
    reference_xyxy: Any,
    ground_truth_xyxy: Any | None = None,
    *,
    head: int | None = None,
    strides: Sequence[int] | None = None,
    title: str = "",
) -> Figure:
    """Sampling locations of one query in one decoder layer, level by level, as large as their attention weights.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1.
        locations: `[heads, P, 2]`, x and y, 0..1 inside the image.
        weights: `[heads, P]`, summing to 1 for each head.
        points_per_level: they sum to P.
        reference_xyxy: `[4]` pixels, the box that the locations were measured from.
        ground_truth_xyxy: `[4]` pixels.
        head: show this head alone; None shows all.
        strides: pixels a cell on each level; the cells are then drawn.
        title: above the first panel.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    pixels = as_rgb(image)
    at = _with_points(locations, points_per_level) * np.array(pixels.shape[1::-1])  # pixels
    counts = as_array(weights)
    if counts.shape != at.shape[:2]:
        raise ValueError(f"locations {list(at.shape)} and weights {list(counts.shape)} do not fit")
    heads = list(range(len(at))) if head is None else [head]
    by_level = np.stack([part.sum(-1) for part in _levels(counts, points_per_level, 1)], axis=1)  # [heads, levels]
    means = ", ".join(f"{100 * s:.0f} %" for s in by_level[heads].mean(0))
    who = f"all {len(at)} heads" if head is None else f"head {head}"
    figure = new_figure(
        11,
        3.2,
        f"Sampling locations of one query, {who}, {len(points_per_level)} levels. Weight on the levels: {means}.",
    )
    panels = figure.subplots(1, len(points_per_level) + 1, width_ratios=[1] * len(points_per_level) + [0.8])
    box = as_array(reference_xyxy)
    limits = _surroundings(box, pixels.shape)
    faded = 1 - 0.6 * (1 - pixels / (255 if pixels.dtype == np.uint8 else 1))  # so that the dots stand out
    parts = zip(panels[:-1], _levels(at, points_per_level, 1), _levels(counts, points_per_level, 1), strict=True)
    for level, (axes, spots, sizes) in enumerate(parts):
        show_image(axes, faded)
        if strides is not None:
            _cells(axes, strides[level], pixels.shape)
        draw_ground_truth(axes, ground_truth_xyxy)
        draw_box(axes, box, "black", dashes=(0, (5, 3)), width=1.4)
        for one in heads:
            axes.scatter(
                *spots[one].T, s=16 + 420 * sizes[one], color=class_colour(one), edgecolor="white", linewidth=0.9,
                alpha=0.9, zorder=3,
            )  # fmt: skip
            for spot in spots[one][sizes[one] > 0.12]:
                axes.text(*spot, str(one), ha="center", va="center_baseline", fontsize=7.5, weight="bold",
                          color=_on(class_colour(one)), clip_on=True, zorder=4)  # fmt: skip
        axes.set_xlim(limits[0], limits[2])
        axes.set_ylim(limits[3], limits[1])
        stride = f", {strides[level]} px a cell" if strides is not None else ""
        axes.set_title(f"level {level + 1}{stride}", fontsize=10.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, weight="bold")
    _weights_by_level(panels[-1], by_level, heads)
    return figure


@styled
def heads_by_layer(locations: Any, weights: Any, starts: Any | None = None) -> Figure:
    """Where each head looks on average, relative to the reference box, for many objects and every decoder layer.

    Args:
        locations: `[L, objects, heads, P, 2]`, x and y in half sides of the box from its centre.
        weights: `[L, objects, heads, P]`.
        starts: `[heads, 2]`, the mean location of each head before training; drawn as rays.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    at, counts = as_array(locations), as_array(weights)
    if at.ndim != 5 or at.shape[:-1] != counts.shape:
        raise ValueError(f"locations {list(at.shape)} and weights {list(counts.shape)} do not fit")
    middles = (at * counts[..., None]).sum(-2)  # [L, objects, heads, 2]
    inside = ((np.abs(at) <= 1).all(-1) * counts).sum((1, 2, 3)) / counts.sum((1, 2, 3))  # [L]
    words = ", ".join(f"layer {i} {100 * weight:.0f} %" for i, weight in enumerate(inside, start=1))
    figure = new_figure(
        9.6, 3.7, f"Mean sampling location of each of {at.shape[2]} heads for {at.shape[1]} objects. Weight inside the "
        f"reference box: {words}.",
    )  # fmt: skip
    for layer, axes in enumerate(figure.subplots(1, len(at), squeeze=False)[0]):
        _unit_box(axes, 1.6)
        for head in range(at.shape[2]):
            colour = class_colour(head)
            if starts is not None:
                ray = as_array(starts)[head]
                axes.plot(*np.outer([0, 2.2 / np.abs(ray).max()], ray).T, color=colour, linewidth=1, dashes=(4, 3))
            axes.plot(*middles[layer, :, head].T, ".", color=colour, markersize=3.5, markeredgewidth=0)
        for head in range(at.shape[2]):
            _number(axes, middles[layer, :, head].mean(0), head, class_colour(head))
        axes.set_title(f"layer {layer + 1}: {100 * inside[layer]:.0f} % of the weight inside", fontsize=10.5)
        axes.set_xlabel("x, half sides from the centre")
        if layer == 0:
            axes.set_ylabel("y, half sides from the centre")
    return figure


def _with_points(locations: Any, points_per_level: Sequence[int]) -> np.ndarray:
    at = as_array(locations)
    if at.ndim != 3 or at.shape[1:] != (sum(points_per_level), 2):
        raise ValueError(f"locations must be [heads, {sum(points_per_level)}, 2], got {list(at.shape)}")
    return at


def _levels(values: np.ndarray, points_per_level: Sequence[int], axis: int) -> list[np.ndarray]:
    return np.split(values, np.cumsum(points_per_level)[:-1], axis=axis)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers)


def _unit_box(axes: Axes, reach: float) -> None:
    """The reference box from -1 to 1, y downward as in an image."""
    axes.add_patch(Rectangle((-1, -1), 2, 2, facecolor="#f2f4f7", edgecolor="black", linewidth=1.4, linestyle="--"))
    axes.plot(0, 0, "+", color=INK, markersize=8)
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes.grid(False)


def _on(colour: Any) -> str:
    """A colour for letters on this one."""
    return INK if np.dot(colour, (0.3, 0.59, 0.11)) > 0.6 else "white"


def _number(axes: Axes, location: np.ndarray, number: int, colour: Any) -> None:
    axes.plot(*location, "o", color=colour, markersize=15, markeredgecolor="white", zorder=4)
    axes.text(*location, str(number), ha="center", va="center_baseline", fontsize=9, color=_on(colour), weight="bold",
              zorder=5)  # fmt: skip


def _surroundings(box: np.ndarray, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """A square around a box, cut at the image: left, top, right, bottom in pixels."""
    reach = 0.95 * max(box[2] - box[0], box[3] - box[1], 16.0)
    side = min(2 * reach, *shape[:2])
    left, top = (
        min(max((low + high) / 2 - side / 2, 0), length - side)
        for low, high, length in ((box[0], box[2], shape[1]), (box[1], box[3], shape[0]))
    )
    return left - 0.5, top - 0.5, left + side - 0.5, top + side - 0.5


def _cells(axes: Axes, stride: int, shape: tuple[int, ...]) -> None:
    for edge in range(0, shape[1] + 1, stride):
        axes.axvline(edge - 0.5, color="white", linewidth=0.7, alpha=0.45)
    for edge in range(0, shape[0] + 1, stride):
        axes.axhline(edge - 0.5, color="white", linewidth=0.7, alpha=0.45)


def _weights_by_level(axes: Axes, by_level: np.ndarray, heads: Sequence[int]) -> None:
    """Stacked bars: how each head divides its weight among the levels."""
    colours, start = layer_colours(by_level.shape[1]), np.zeros(len(by_level))
    for level, (weights, colour) in enumerate(zip(by_level.T, colours, strict=True)):
        shown = [1.0 if head in heads else 0.25 for head in range(len(by_level))]
        bars = axes.barh(
            range(len(by_level)), weights, left=start, color=colour, height=0.72, edgecolor="white", linewidth=0.6
        )
        for bar, alpha in zip(bars, shown, strict=True):
            bar.set_alpha(alpha)
        start = start + weights
        axes.barh(0, 0, color=colour, label=f"level {level + 1}")
    name_bars(axes, [f"head {n}" for n in range(len(by_level))])
    for head, words in enumerate(axes.get_yticklabels()):
        words.set_color(tuple(0.8 * c for c in class_colour(head)))
        words.set_weight("bold")
    axes.set_xlim(0, 1)
    axes.grid(False)
    axes.set_title("weight by level", fontsize=10.5)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=by_level.shape[1], fontsize=8, handlelength=1.0,
                columnspacing=0.8)  # fmt: skip
