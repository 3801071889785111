"""Boxes on photographs: what was found beside what is there, and one box on its way through the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from dfine_lib.boxes import box_iou
from dfine_tools.figures.style import (
    INK,
    TRUTH,
    Figure,
    as_array,
    as_rgb,
    class_colour,
    draw_box,
    layer_colours,
    new_figure,
    show_image,
    styled,
)

EDGES = ("left", "top", "right", "bottom")


@styled
def detections_beside_truth(
    images: Sequence[Any],
    detections: Sequence[Any],
    truths: Sequence[Any],
    names: Sequence[str],
    score: float = 0.4,
    pairs_per_row: int = 2,
) -> Figure:
    """Each image twice: with its ground truth, and with what was found.

    Args:
        images: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1, in the pixels that the boxes are given in.
        detections: for each image `labels`, `boxes_xyxy` (pixels) and `scores`.
        truths: for each image `labels` and `boxes_xyxy` (pixels), as attributes or keys.
        names: class names by label.
        score: leave out detections below it.
        pairs_per_row: images side by side.
    """
    pairs_per_row = max(1, min(pairs_per_row, len(images)))
    rows = -(-len(images) // pairs_per_row)
    shape = as_rgb(images[0]).shape
    side = 11.0 / (2 * pairs_per_row)
    shown = [(as_array(d.scores) >= score) for d in detections]
    counts = ", ".join(f"{len(_part(t, 'labels'))} there, {s.sum()} found" for t, s in zip(truths, shown, strict=True))
    figure = new_figure(
        11, rows * (side * shape[0] / shape[1] + 0.35), f"Images with ground truth beside detections: {counts}."
    )
    grid = figure.subplots(rows, 2 * pairs_per_row, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for i, (image, found, truth) in enumerate(zip(images, detections, truths, strict=True)):
        draw_pair(grid[2 * i], grid[2 * i + 1], image, found, truth, names, score)
    return figure


def draw_pair(there: Axes, here: Axes, image: Any, found: Any, truth: Any, names: Sequence[str], score: float) -> None:
    """One image with its ground truth on the axes `there`, and with what was found on the axes `here`."""
    labels = _part(truth, "labels").astype(int)
    show_image(there, image)
    there.set_title(f"ground truth: {len(labels)}", fontsize=9.5)
    _draw_objects(there, _part(truth, "boxes_xyxy"), labels, [names[n] for n in labels])
    order = np.flatnonzero(_part(found, "scores") >= score)[::-1]  # scores fall: the surest is drawn last, on top
    labels, scores = _part(found, "labels")[order].astype(int), _part(found, "scores")[order]
    show_image(here, image)
    here.set_title(f"found, score ≥ {score:g}: {len(labels)}", fontsize=9.5)
    words = [f"{names[n]} {s:.2f}" for n, s in zip(labels, scores, strict=True)]
    _draw_objects(here, _part(found, "boxes_xyxy").reshape(-1, 4)[order], labels, words)


@styled
def box_refinement(image: Any, boxes_by_layer_xyxy: Any, truth_xyxy: Any | None = None, title: str = "") -> Figure:
    """One box from its initial guess through the layers, and how far each edge is off after each.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1.
        boxes_by_layer_xyxy: `[L + 1, 4]` pixels, the initial box first.
        truth_xyxy: `[4]` pixels; without it the last layer's box is what the edges are held against.
        title: above the picture.
    """
    boxes = as_array(boxes_by_layer_xyxy)
    last = len(boxes) - 1
    goal = boxes[-1] if truth_xyxy is None else as_array(truth_xyxy)
    ious = box_iou(torch.from_numpy(boxes), torch.from_numpy(goal)[None])[:, 0].tolist()
    target = "the last layer's box" if truth_xyxy is None else "the ground truth"
    steps = ", ".join(f"{v:.2f}" for v in ious)
    figure = new_figure(
        10, 4.4, f"A box refined over {last} layers; IoU with {target}, from the initial box on: {steps}."
    )
    where, errors = figure.subplots(1, 2, width_ratios=(1, 1.15))
    draw_boxes_by_layer(where, image, boxes, truth_xyxy)
    where.set_title(title or "initial and refined boxes")
    outward = (boxes - goal) * np.array([-1, -1, 1, 1])  # positive: the edge lies outside the goal
    for edge, (name, marker) in enumerate(zip(EDGES, "<^>v", strict=True)):
        errors.plot(outward[:, edge], marker=marker, color=class_colour(edge), markersize=7, label=name)
    errors.axhline(0, color=INK, linewidth=1)
    errors.set_xticks(range(last + 1), ["initial", *(f"layer {i}" for i in range(1, last + 1))])
    errors.set_xlim(-0.35, last + 0.35)
    errors.set_ylabel("edge outside (+) or inside (−), pixels")
    errors.set_title(f"distance of each edge from {target}")
    errors.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), columnspacing=1.2)
    for i, iou in enumerate(ious):
        errors.annotate(
            f"IoU {iou:.2f}", (i, 1), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=8.5
        )
    errors.margins(y=0.15)
    return figure


def draw_boxes_by_layer(axes: Axes, image: Any, boxes_xyxy: np.ndarray, truth_xyxy: Any | None) -> None:
    """The surroundings of one object, with its boxes from initial (dashed) to last (dark) and the truth (dotted)."""
    show_image(axes, image)
    height, width = as_rgb(image).shape[:2]
    everything = boxes_xyxy if truth_xyxy is None else np.vstack([boxes_xyxy, as_array(truth_xyxy)])
    low, high = everything[:, :2].min(0), everything[:, 2:].max(0)
    centre, reach = (low + high) / 2, 0.75 * max(*(high - low), 20.0)  # half of what is shown, pixels
    axes.set_xlim(max(centre[0] - reach, -0.5), min(centre[0] + reach, width - 0.5))
    axes.set_ylim(min(centre[1] + reach, height - 0.5), max(centre[1] - reach, -0.5))
    if truth_xyxy is not None:
        draw_box(axes, truth_xyxy, TRUTH, dashes=(0, (1, 1.2)), width=2.4, label="ground truth")
    draw_box(axes, boxes_xyxy[0], "black", dashes=(0, (5, 3)), width=1.4, label="initial")
    for number, (box, colour) in enumerate(
        zip(boxes_xyxy[1:], layer_colours(len(boxes_xyxy) - 1), strict=True), start=1
    ):
        draw_box(axes, box, colour, width=1.6, label=f"layer {number}")


def _draw_objects(axes: Axes, boxes_xyxy: np.ndarray, labels: np.ndarray, words: Sequence[str]) -> None:
    size = 7.5 if len(words) <= 12 else 6
    for box, label, text in zip(boxes_xyxy.reshape(-1, 4), labels, words, strict=True):
        colour = class_colour(int(label))
        draw_box(axes, box, colour, width=1.5)
        axes.text(
            box[0],
            box[1],
            text,
            fontsize=size,
            color="white",
            va="bottom",
            clip_on=True,
            bbox=dict(
                boxstyle="square,pad=0.15", facecolor=tuple(0.75 * c for c in colour), edgecolor="none", alpha=0.85
            ),
        )


def _part(truth: Any, name: str) -> np.ndarray:
    return as_array(truth[name] if isinstance(truth, dict) else getattr(truth, name))
