"""Boxes on images: what was found beside what is there, and the boxes of one object layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dfine_tools.figures.style import (
    Figure,
    as_array,
    as_rgb,
    class_colour,
    draw_box,
    draw_ground_truth,
    layer_colours,
    new_figure,
    show_image,
    styled,
)


@styled
def detections_beside_ground_truth(
    images: Sequence[Any],
    detections: Sequence[Any],
    ground_truths: Sequence[Any],
    names: Sequence[str],
    score: float = 0.4,
    pairs_per_row: int = 2,
) -> Figure:
    """Each image twice: with its ground truth, and with what was found.

    Args:
        images: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1, in the pixels that the boxes are given in.
        detections: for each image `labels`, `boxes_xyxy` (pixels) and `scores`.
        ground_truths: for each image `labels` and `boxes_xyxy` (pixels), as attributes or keys.
        names: class names by label.
        score: leave out detections below it.
        pairs_per_row: images side by side.
    """
    pairs_per_row = max(1, min(pairs_per_row, len(images)))
    rows = -(-len(images) // pairs_per_row)
    shape = as_rgb(images[0]).shape
    side = 11.0 / (2 * pairs_per_row)
    shown = [(as_array(d.scores) >= score) for d in detections]
    counts = ", ".join(
        f"{len(_part(t, 'labels'))} there, {s.sum()} found" for t, s in zip(ground_truths, shown, strict=True)
    )
    figure = new_figure(
        11, rows * (side * shape[0] / shape[1] + 0.35), f"Images with ground truth beside detections: {counts}."
    )
    grid = figure.subplots(rows, 2 * pairs_per_row, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for i, (image, found, ground_truth) in enumerate(zip(images, detections, ground_truths, strict=True)):
        draw_pair(grid[2 * i], grid[2 * i + 1], image, found, ground_truth, names, score)
    return figure


def draw_pair(
    there: Axes, here: Axes, image: Any, found: Any, ground_truth: Any, names: Sequence[str], score: float
) -> None:
    """One image with its ground truth on the axes `there`, and with what was found on the axes `here`."""
    labels = _part(ground_truth, "labels").astype(int)
    show_image(there, image)
    there.set_title(f"ground truth: {len(labels)}", fontsize=9.5)
    _draw_objects(there, _part(ground_truth, "boxes_xyxy"), labels, [names[n] for n in labels])
    order = np.flatnonzero(_part(found, "scores") >= score)[::-1]  # scores fall: the highest is drawn last, on top
    labels, scores = _part(found, "labels")[order].astype(int), _part(found, "scores")[order]
    show_image(here, image)
    here.set_title(f"found, score ≥ {score:g}: {len(labels)}", fontsize=9.5)
    words = [f"{names[n]} {s:.2f}" for n, s in zip(labels, scores, strict=True)]
    _draw_objects(here, _part(found, "boxes_xyxy").reshape(-1, 4)[order], labels, words)


def draw_boxes_by_layer(axes: Axes, image: Any, boxes_xyxy: np.ndarray, ground_truth_xyxy: Any | None) -> None:
    """The surroundings of one object, its boxes from initial (dashed) to last (dark), the ground truth (dotted)."""
    show_image(axes, image)
    height, width = as_rgb(image).shape[:2]
    everything = boxes_xyxy if ground_truth_xyxy is None else np.vstack([boxes_xyxy, as_array(ground_truth_xyxy)])
    low, high = everything[:, :2].min(0), everything[:, 2:].max(0)
    centre, reach = (low + high) / 2, 0.75 * max(*(high - low), 20.0)  # half of what is shown, pixels
    axes.set_xlim(max(centre[0] - reach, -0.5), min(centre[0] + reach, width - 0.5))
    axes.set_ylim(min(centre[1] + reach, height - 0.5), max(centre[1] - reach, -0.5))
    draw_ground_truth(axes, ground_truth_xyxy, width=2.4, label="ground truth")
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
        ground = dict(
            boxstyle="square,pad=0.15", facecolor=tuple(0.75 * c for c in colour), edgecolor="none", alpha=0.85
        )
        axes.text(*box[:2], text, fontsize=size, color="white", va="bottom", clip_on=True, bbox=ground)


def _part(objects: Any, name: str) -> np.ndarray:
    return as_array(objects[name] if isinstance(objects, dict) else getattr(objects, name))
