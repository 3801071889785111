"""One memorised batch: losses by term, boxes before and after, and what failing looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from dfine_lib.boxes import box_iou
from dfine_tools.figures.style import (
    INK,
    SECOND,
    Figure,
    as_array,
    as_rgb,
    draw_box,
    draw_ground_truth,
    draw_lines,
    new_figure,
    show_image,
    styled,
)


@styled
def loss_terms(terms: Mapping[str, Any], total: Any) -> Figure:
    """A training loss and its terms, step by step.

    Args:
        terms: weighted, by name, `[T]` each.
        total: the sum of everything that is trained on, `[T]`.
    """
    rows, total = {name: as_array(values) for name, values in terms.items()}, as_array(total)
    words = "; ".join(f"{name} {values[0]:.2f} to {values[-1]:.2f}" for name, values in rows.items())
    figure = new_figure(
        9.5, 3.4, f"Loss over {len(total)} steps: in all {total[0]:.1f} to {total[-1]:.1f}; of the last layer {words}."
    )
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    left.plot(np.arange(1, len(total) + 1), total, color=INK)
    left.set(title="all terms, all layers", ylabel="weighted sum")
    left.set_ylim(bottom=0)
    draw_lines(right, None, rows)
    right.set(title="last layer, term by term", ylabel="weighted term")
    right.set_ylim(bottom=0)
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (left, right):
        axes.set_xlabel("optimizer step")
    return figure


@styled
def boxes_before_and_after(
    images: Sequence[Any], ground_truths_xyxy: Sequence[Any], boxes_by_time: Mapping[str, Sequence[Any]]
) -> Figure:
    """The same images with the highest-scoring boxes of a model at several times; one row a time.

    Args:
        images: `[3, H, W]` or `[H, W, 3]`, in the pixels of the boxes.
        ground_truths_xyxy: for each image `[G, 4]` pixels.
        boxes_by_time: by the name of the time, for each image `[K, 4]` pixels.
    """
    count = len(images)
    fits = {
        name: float(np.mean(np.concatenate([_best_ious(b, t) for b, t in zip(boxes, ground_truths_xyxy, strict=True)])))
        for name, boxes in boxes_by_time.items()
    }
    words = "; ".join(f"{name} {fit:.2f}" for name, fit in fits.items())
    figure = new_figure(
        1.7 * count, 1.95 * len(boxes_by_time), f"Boxes on {count} images; mean IoU of objects with them: {words}."
    )
    grid = figure.subplots(len(boxes_by_time), count, squeeze=False)
    for row, (name, boxes) in zip(grid, boxes_by_time.items(), strict=True):
        for axes, image, ground_truths, found in zip(row, images, ground_truths_xyxy, boxes, strict=True):
            show_image(axes, _few_levels(image))
            draw_ground_truth(axes, ground_truths)
            for box in as_array(found):
                draw_box(axes, box, SECOND, width=1.5)
        row[0].set_title(f"{name}: mean IoU {fits[name]:.2f}")
    return figure


@styled
def runs_side_by_side(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Several runs' losses, one panel a kind of loss: what each way of failing looks like.

    Args:
        runs: by name of the run, by name of the loss, `[T]`; the same losses in every run.
    """
    kinds = list(next(iter(runs.values())))
    words = "; ".join(
        f"{name}: "
        + ", ".join(f"{kind} {as_array(run[kind])[0]:.2g} to {as_array(run[kind])[-1]:.2g}" for kind in kinds)
        for name, run in runs.items()
    )
    figure = new_figure(9.5, 3.4, f"Losses of several runs on one batch. {words}.")
    panels = figure.subplots(1, len(kinds))
    for axes, kind in zip(np.atleast_1d(panels), kinds, strict=True):
        draw_lines(axes, None, {name: as_array(run[kind]) for name, run in runs.items()})
        axes.set(title=kind, xlabel="optimizer step")
        axes.set_ylim(bottom=0)
    np.atleast_1d(panels)[0].set_ylabel("weighted loss")
    figure.legend(*np.atleast_1d(panels)[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    return figure


def _few_levels(image: Any) -> np.ndarray:
    """The image with 16 levels a colour: noise that nobody looks at makes most of a PNG's bytes."""
    pixels = as_rgb(image)
    pixels = pixels / 255 if pixels.dtype == np.uint8 else pixels
    return (np.round(pixels * 15) / 15).astype(np.float32)


def _best_ious(boxes: Any, ground_truths: Any) -> np.ndarray:
    """IoU of every ground-truth box with the box assigned to it, each box to one object; 0 where none is left."""
    found, objects = (torch.from_numpy(as_array(part).reshape(-1, 4)) for part in (boxes, ground_truths))
    iou = box_iou(found, objects).numpy()
    rows, columns = linear_sum_assignment(-iou)
    best = np.zeros(len(objects))
    best[columns] = iou[rows, columns]
    return best
