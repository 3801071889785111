"""The overlap of two boxes: intersection, union and smallest enclosing box; IoU and GIoU of a box
that slides away; IoU of small boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from dfine_lib.boxes import paired_iou_giou
from dfine_tools.figures.style import INK, MAIN, MUTED, SECOND, Figure, as_array, layer_colours, new_figure, styled


@styled
def two_boxes(pairs: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Pairs of boxes, each with its intersection hatched, its union shaded and its smallest enclosing box dashed.

    Args:
        pairs: two boxes xyxy `[4]` in pixels, by the name of the pair.

    Raises:
        ValueError: a box that has not four numbers.
    """
    panels, words = [], []
    for name, pair in pairs.items():
        a, b = (as_array(box) for box in pair)
        if a.shape != (4,) or b.shape != (4,):
            raise ValueError(f"{name}: a box has four numbers, got {list(a.shape)} and {list(b.shape)}")
        iou, giou = (float(value) for value in paired_iou_giou(torch.from_numpy(a), torch.from_numpy(b)))
        panels.append((name, a, b, iou, giou))
        words.append(f"{name}: IoU {iou:.2f}, GIoU {giou:+.2f}")
    figure = new_figure(
        4.6 * len(panels), 3.9, f"Two boxes with intersection, union and smallest enclosing box. {'; '.join(words)}."
    )
    for axes, (name, a, b, iou, giou) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        _draw_pair(axes, a, b)
        axes.set_title(f"{name}: IoU {iou:.2f}, GIoU {giou:+.2f}")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _draw_pair(axes: Axes, a: np.ndarray, b: np.ndarray) -> None:
    low, high = np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])
    for box in (a, b):
        axes.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), facecolor="#d5e2ea", edgecolor="none", label="union"))
    start, side = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    overlap = Rectangle(start, *side.clip(0), facecolor="#9dbccd", edgecolor="white", hatch="//", linewidth=0)
    overlap.set_label("intersection")
    axes.add_patch(overlap)
    enclosing = Rectangle(low, *(high - low), fill=False, edgecolor=INK, linestyle=(0, (5, 3)), linewidth=1.3)
    enclosing.set_label("enclosing box")
    for box, colour, letter in ((a, MAIN, "A"), (b, SECOND, "B")):
        axes.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, edgecolor=colour, linewidth=2.4))
        corner = box[:2] if letter == "A" else box[2:]
        inward = 3 if letter == "A" else -3
        axes.text(*(corner + inward), letter, color=INK, ha="left" if letter == "A" else "right",
                  va="top" if letter == "A" else "bottom", fontweight="bold", fontsize=12)  # fmt: skip
    axes.add_patch(enclosing)
    seen: set[str] = set()
    for patch in axes.patches:  # one entry of the legend for both halves of the union
        if patch.get_label() in seen:
            patch.set_label("")
        seen.add(patch.get_label())
    margin = 0.08 * float((high - low).max())
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(high[1] + margin, low[1] - margin)  # y grows downwards, as in images
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set(xlabel="x, pixels", ylabel="y, pixels")


@styled
def overlap_by_shift(shifts: Any, iou: Any, giou: Any, side: float) -> Figure:
    """IoU and GIoU of two equal squares over the distance by which one was moved.

    Args:
        shifts: pixels, rising, `[S]`.
        iou: `[S]`.
        giou: `[S]`.
        side: of the squares, pixels.

    Raises:
        ValueError: other shapes.
    """
    x, one, other = as_array(shifts), as_array(iou), as_array(giou)
    if not x.shape == one.shape == other.shape or x.ndim != 1:
        raise ValueError(f"one IoU and one GIoU a shift, got {x.shape}, {one.shape}, {other.shape}")
    figure = new_figure(
        9,
        3.9,
        f"IoU and GIoU of two squares of {side:g} px over the shift, from {x[0]:g} to {x[-1]:g} px. IoU is 0 from "
        f"{side:g} px on, GIoU keeps falling and ends at {other[-1]:.2f}.",
    )
    axes = figure.subplots()
    axes.axvspan(side, x[-1], color="#eef1f4", zorder=0)
    axes.text(1.02 * side, 0.9, "no overlap", color=INK, fontsize=9.5)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot(x, other, color=MAIN, label="GIoU")
    axes.plot(x, one, color=SECOND, linestyle="--", label="IoU")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(-1.05, 1.05)
    axes.set(
        xlabel="shift to the right, pixels", ylabel="IoU, GIoU", title=f"two squares of {side:g} px, one moved away"
    )
    axes.legend(loc="lower left")
    return figure


@styled
def iou_by_side(
    sides: Any, iou_by_shift: Mapping[float, Any], thresholds: Sequence[float] = (0.5, 0.75, 0.95)
) -> Figure:
    """What a shift of some pixels costs a box, over the side of the box.

    Args:
        sides: of the box along the shift, pixels, `[S]`.
        iou_by_shift: IoU `[S]` by shift in pixels.
        thresholds: levels to mark; COCO asks for 0.50 to 0.95.

    Raises:
        ValueError: not one IoU a side.
    """
    x = as_array(sides)
    curves = {shift: as_array(values) for shift, values in iou_by_shift.items()}
    if any(values.shape != x.shape for values in curves.values()):
        raise ValueError(f"one IoU a side, {x.shape}, got {[values.shape for values in curves.values()]}")
    words = "; ".join(
        f"{shift:g} px off: IoU {values[0]:.2f} at {x[0]:.0f} px, {values[-1]:.2f} at {x[-1]:.0f} px"
        for shift, values in curves.items()
    )
    figure = new_figure(9, 3.9, f"IoU over the side of a box, for small shifts. {words}.")
    axes = figure.subplots()
    for level in thresholds:
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)))
        axes.text(x[-1] * 1.02, level, f"{level:.2f}", va="center", fontsize=9.5)
    styles = ("-", "--", "-.", ":")
    for i, ((shift, values), colour) in enumerate(zip(curves.items(), layer_colours(len(curves)), strict=True)):
        axes.plot(x, values, color=colour, linestyle=styles[i % 4], label=f"{shift:g} px off")
    axes.set_xscale("log")
    ticks = [side for side in (4, 8, 10, 16, 32, 64, 100, 200, 400) if x[0] <= side <= x[-1]]
    axes.set_xticks(ticks, [str(side) for side in ticks])
    axes.minorticks_off()
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(0, 1.02)
    axes.set(xlabel="side of the box, pixels (logarithmic)", ylabel="IoU", title="the same shift, boxes of every size")
    axes.legend(loc="lower right")
    return figure
