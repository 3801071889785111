"""What is in a data set: boxes of each class, sizes of objects, where they lie, annotated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dfine_lib.errors import DfineError
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
    name_bars,
    new_figure,
    show_image,
    styled,
)

_COLOURS = (MAIN, SECOND)


@styled
def boxes_by_class(counts: Mapping[str, Sequence[int]], names: Sequence[str], *, most: int = 30) -> Figure:
    """Boxes of each class on a logarithmic scale, most first, a bar for each split.

    Args:
        counts: boxes of each class `[C]`, by split; the first split gives the order.
        names: class names, C of them.
        most: classes to draw; the title says how many are left out.

    Raises:
        ValueError: counts of another length than names, or no class.
    """
    columns = {split: as_array(values) for split, values in counts.items()}
    if not names or not columns or any(len(values) != len(names) for values in columns.values()):
        raise DfineError(f"{len(names)} names, counts of {[len(values) for values in columns.values()]} classes")
    order = np.argsort(-next(iter(columns.values())), kind="stable")[:most]
    summary = "; ".join(
        f"{split}: " + ", ".join(f"{names[i]} {values[i]:.0f}" for i in order[:10]) for split, values in columns.items()
    )
    figure = new_figure(8.5, 1.3 + 0.27 * len(order), f"Boxes of each class, most first. {summary}.")
    axes = figure.subplots()
    height = 0.8 / len(columns)
    for number, (split, values) in enumerate(columns.items()):
        place = np.arange(len(order)) + (number - (len(columns) - 1) / 2) * height
        axes.barh(place, values[order], height=height, color=_COLOURS[number % 2], label=split)
    name_bars(axes, [names[i][:28] for i in order])
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel("boxes")
    more = f" ({len(names) - len(order)} rarer ones left out)" if len(names) > len(order) else ""
    axes.set_title(f"boxes of each class{more}")
    axes.legend(loc="lower right")
    return figure


@styled
def object_sizes(sides_px: Mapping[str, Any], *, image_size: int, marks_px: Mapping[str, float]) -> Figure:
    """Fraction of the objects by side, in pixels of the network's input, on a logarithmic scale.

    Args:
        sides_px: geometric mean of width and height of each object at the input size `[M]`, by split.
        image_size: side of the input.
        marks_px: sides to mark, by what they mean.

    Raises:
        ValueError: no object.
    """
    columns = {split: as_array(values) for split, values in sides_px.items() if len(values)}
    if not columns:
        raise DfineError("no object to draw")
    edges = 2.0 ** np.arange(-1, np.log2(2 * image_size) + 0.5, 0.5)
    summary = "; ".join(
        f"{split}: median {np.median(values):.0f} px, "
        + ", ".join(f"{(values < mark).mean():.1%} below {mark:g} px" for mark in marks_px.values())
        for split, values in columns.items()
    )
    figure = new_figure(8.5, 3.8, f"Sides of the objects at an input of {image_size} px. {summary}.")
    axes = figure.subplots()
    for number, (split, values) in enumerate(columns.items()):
        axes.hist(
            values.clip(edges[0], edges[-1]), edges, weights=np.full(len(values), 100 / len(values)),
            histtype="step", linewidth=2, color=_COLOURS[number % 2], label=f"{split}, {len(values):,} objects",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    for meaning, mark in marks_px.items():
        axes.axvline(mark, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(mark, 1.0, f" {meaning}", transform=axes.get_xaxis_transform(), fontsize=8.5, color=INK, va="top")
    axes.set_xlabel(f"side in pixels at an input of {image_size} px")
    axes.set_ylabel("% of the objects")
    axes.set_title("sizes of the objects", pad=14)
    axes.legend(loc="upper right")
    return figure


@styled
def anchors_in_objects(counts: Mapping[str, Any]) -> Figure:
    """Fraction of the objects by how many anchors have their centre inside, on bars that double in width.

    Args:
        counts: anchors inside each object `[M]`, by split.

    Raises:
        ValueError: no object.
    """
    columns = {split: as_array(values) for split, values in counts.items() if len(values)}
    if not columns:
        raise DfineError("no object to draw")
    starts = np.array([0, 1, 2, 3, 5, 9, 17, 33, 65, 257, 1025])
    names = [str(a) if a + 1 == b else f"{a}-{b - 1}" for a, b in pairwise(starts)] + ["more"]
    summary = "; ".join(
        f"{split}: none in {(values == 0).mean():.1%}, median {np.median(values):.0f}"
        for split, values in columns.items()
    )
    figure = new_figure(8.5, 3.4, f"Anchors inside each object. {summary}.")
    axes = figure.subplots()
    width = 0.8 / len(columns)
    for number, (split, values) in enumerate(columns.items()):
        fractions = np.bincount(np.searchsorted(starts, values, side="right") - 1, minlength=len(starts)) / len(values)
        place = np.arange(len(starts)) + (number - (len(columns) - 1) / 2) * width
        axes.bar(
            place, 100 * fractions, width=width, color=_COLOURS[number % 2], label=f"{split}, {len(values):,} objects"
        )
    axes.set_xticks(np.arange(len(starts)), names)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("anchors whose centre lies in the object")
    axes.set_ylabel("% of the objects")
    axes.set_title("anchors in each object")
    axes.legend(loc="upper right")
    return figure


@styled
def where_objects_lie(density: Mapping[str, Any]) -> Figure:
    """Heat map of box centres over the image, brighter where more lie; one map for each split.

    Args:
        density: counts of centres `[n, n]`, rows from top to bottom, by split.

    Raises:
        ValueError: no map, or one that is not square.
    """
    maps = {split: as_array(values) for split, values in density.items()}
    if not maps or any(one.ndim != 2 or one.shape[0] != one.shape[1] for one in maps.values()):
        raise DfineError(f"maps must be [n, n], got {[list(one.shape) for one in maps.values()]}")
    summary = []
    for split, one in maps.items():
        cut = len(one) // 4
        inner = one[cut : len(one) - cut, cut : len(one) - cut].sum() / max(one.sum(), 1)
        summary.append(f"{split}: {inner:.0%} of the centres in the middle quarter of the area")
    figure = new_figure(4.3 * len(maps), 4.2, f"Where the centres of boxes lie. {'; '.join(summary)}.")
    for axes, (split, one) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items()):
        axes.imshow(one, cmap="mako", extent=(0, 100, 100, 0))
        axes.set_title(f"{split}: centres of boxes")
        axes.set_xlabel("% of the width")
        axes.set_ylabel("% of the height")
        axes.grid(visible=False)
    return figure


@styled
def annotated_images(
    images: Mapping[str, tuple[Any, Any, Sequence[int]]], names: Sequence[str], *, per_row: int = 3
) -> Figure:
    """Images with their annotated boxes, in the colour of the class and with its name.

    Args:
        images: image `[3, H, W]` or `[H, W, 3]`, boxes xyxy `[G, 4]` in its pixels, labels `[G]`; by title.
        names: of the classes that labels point to.
        per_row: images side by side.

    Raises:
        ValueError: no image, or a label without a name.
    """
    if not images:
        raise DfineError("no image to show")
    rows = -(-len(images) // per_row)
    summary = "; ".join(f"{title}: {len(labels)} boxes" for title, (_, _, labels) in images.items())
    figure = new_figure(3.7 * min(per_row, len(images)), 3.2 * rows, f"Images with their annotations. {summary}.")
    grid = figure.subplots(rows, min(per_row, len(images)), squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (title, (image, boxes, labels)) in zip(grid, images.items()):
        show_image(axes, image)
        high, wide = as_rgb(image).shape[:2]
        axes.set_title(title, fontsize=8.5)
        for box, label in zip(as_array(boxes).reshape(-1, 4), labels, strict=True):
            if not 0 <= label < len(names):
                raise DfineError(f"{title}: label {label} has no name; there are {len(names)}")
            colour = class_colour(int(label))
            draw_box(axes, box, colour, width=1.2)
            if len(labels) <= 12:
                axes.text(
                    box[0].clip(0, wide), box[1].clip(0, high), names[label][:20], fontsize=6.5, color="white",
                    va="bottom", clip_on=True, bbox=dict(boxstyle="square,pad=0.1", facecolor=colour, edgecolor="none"),
                )  # fmt: skip
        axes.set_xlim(-0.5, wide - 0.5)
        axes.set_ylim(high - 0.5, -0.5)
    return figure
