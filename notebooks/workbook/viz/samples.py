"""What a network is shown in training: images with their boxes, boxes packed end to end, sides of batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from dfine_tools.figures.style import (
    INK,
    MAIN,
    MUTED,
    SECOND,
    Figure,
    as_array,
    as_rgb,
    class_colour,
    draw_box,
    new_figure,
    show_image,
    styled,
)


@styled
def images_with_boxes(
    images: Mapping[str, tuple[Any, Any]],
    *,
    lost: Mapping[str, Any] | None = None,
    per_row: int = 4,
    width: float = 9.6,
) -> Figure:
    """Images with their boxes; box number i has the same colour in every image, and its number.

    Args:
        images: image `[3, H, W]` or `[H, W, 3]` and boxes xyxy `[G, 4]` in its pixels, by title. A box with NaN keeps
            its number and is not drawn.
        lost: boxes xyxy of an image to draw dotted, such as those that a crop has left out, by title.
        per_row: images side by side.
        width: of a whole row at most, inches.

    Raises:
        ValueError: no image, or boxes of another shape.
    """
    if not images:
        raise ValueError("no image to show")
    per_row = min(per_row, len(images))
    rows = -(-len(images) // per_row)
    shapes = [as_rgb(image).shape for image, _ in images.values()]
    # One row: all of one height. Several rows: all of one width.
    ratios = [shape[1] / shape[0] for shape in shapes] if rows == 1 else [1.0] * per_row
    side = min(2.9, width / sum(ratios))
    tallest = 1.0 if rows == 1 else max(shape[0] / shape[1] for shape in shapes)
    words = "; ".join(
        f"{name}: {shape[1]} × {shape[0]} px, {np.isfinite(as_array(boxes)).all(-1).sum()} boxes"
        for (name, (_, boxes)), shape in zip(images.items(), shapes, strict=True)
    )
    figure = new_figure(side * sum(ratios), rows * (side * tallest + 0.5), f"Images with their boxes. {words}.")
    grid = figure.subplots(rows, per_row, squeeze=False, width_ratios=ratios).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (name, (image, boxes)), shape in zip(grid, images.items(), shapes, strict=False):
        boxes = as_array(boxes)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name}: boxes must be [G, 4], got {list(boxes.shape)}")
        show_image(axes, image)
        axes.add_patch(Rectangle((-0.5, -0.5), shape[1], shape[0], fill=False, edgecolor=MUTED, linewidth=0.8))
        axes.set_title(f"{name}\n{shape[1]} × {shape[0]} px", fontsize=9.5)
        for box in as_array((lost or {}).get(name, np.zeros((0, 4)))).reshape(-1, 4):
            draw_box(axes, box, "white", dashes=(0, (1, 1.5)), width=1.6)
        for i, box in enumerate(boxes):
            if np.isfinite(box).all():
                _numbered_box(axes, box, i)
    return figure


def _numbered_box(axes: Any, box: np.ndarray, number: int) -> None:
    colour = class_colour(number)
    draw_box(axes, box, colour)
    ground = dict(boxstyle="square,pad=0.15", facecolor=tuple(0.7 * c for c in colour), edgecolor="none", alpha=0.9)
    axes.text(box[0], box[1], str(number + 1), fontsize=7.5, color="white", va="bottom", clip_on=True, bbox=ground)


@styled
def packed_arrays(box_offsets: Any, labels: Any, image_names: Sequence[str]) -> Figure:
    """One long row of boxes, and which piece of it belongs to which image.

    Args:
        box_offsets: `[I + 1]`; image i has the boxes from `box_offsets[i]` up to `box_offsets[i + 1]`.
        labels: `[M]`, written into the cells.
        image_names: `[I]`.

    Raises:
        ValueError: lengths that do not belong together.
    """
    offsets, cells = as_array(box_offsets).astype(int), as_array(labels).astype(int)
    if len(offsets) != len(image_names) + 1 or offsets[-1] != len(cells):
        raise ValueError(f"{len(offsets)} offsets for {len(image_names)} images and {len(cells)} boxes")
    words = ", ".join(f"{name} {n}" for name, n in zip(image_names, np.diff(offsets), strict=True))
    figure = new_figure(
        10, 2.0, f"{len(cells)} boxes end to end; boxes of each image: {words}. Offsets: {offsets.tolist()}."
    )
    axes = figure.subplots()
    shades, filled = (MAIN, SECOND), 0
    for i, (start, end) in enumerate(pairwise(offsets)):
        filled += end > start
        for cell in range(start, end):
            axes.add_patch(Rectangle((cell, 0), 1, 1, facecolor=shades[filled % 2], alpha=0.3, edgecolor="white"))
            axes.text(cell + 0.5, 0.5, str(cells[cell]), ha="center", va="center", fontsize=9.5)
        middle = (start + end) / 2
        empty = start == end
        axes.text(middle, 1.75 if empty else 1.25, image_names[i] + (": none" if empty else ""), ha="center",
                  fontsize=9.5)  # fmt: skip
        if empty:
            axes.plot([middle, middle], [1.05, 1.65], color=MUTED, linewidth=1)
    at: dict[int, list[int]] = {}
    for i, offset in enumerate(offsets):
        at.setdefault(int(offset), []).append(i)
    for offset, numbers in at.items():
        axes.plot([offset, offset], [-0.3, 1], color=INK, linewidth=1.2)
        text = ", ".join(f"[{i}]" for i in numbers)
        axes.text(offset, -0.45, f"{offset}\n{text}", ha="center", va="top", fontsize=8.5)
    axes.set_xlim(-0.6, max(len(cells), 1) + 0.6)
    axes.set_ylim(-1.25, 2.3)
    axes.set_axis_off()
    axes.set_title("labels, end to end; below, the offsets and their positions in `box_offsets`")
    return figure


@styled
def batch_sides(sides: Any, base: int) -> Figure:
    """How often each side of a batch occurs in the list that multi-scale training draws from.

    Args:
        sides: pixels, `[S]`, with repetitions.
        base: the base side, which is marked.

    Raises:
        ValueError: no sides.
    """
    values, counts = np.unique(as_array(sides).astype(int), return_counts=True)
    if not len(values):
        raise ValueError("no sides to show")
    words = ", ".join(f"{v} px {c / counts.sum():.0%}" for v, c in zip(values, counts, strict=True))
    figure = new_figure(9, 3.2, f"Fraction of batches by the side of their images: {words}.")
    axes = figure.subplots()
    colours = [SECOND if v == base else MAIN for v in values]
    bars = axes.bar(range(len(values)), 100 * counts / counts.sum(), color=colours, width=0.7)
    for bar, value in zip(bars, values, strict=True):
        if value == base:
            bar.set_hatch("//")
            bar.set_edgecolor("white")
    axes.set_xticks(range(len(values)), [str(v) for v in values])
    axes.set(xlabel="side of the batch, pixels (hatched: the base size)", ylabel="fraction of batches, %")
    axes.set_title(f"{values[0]} to {values[-1]} px in steps of 32")
    return figure
