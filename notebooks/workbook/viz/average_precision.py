"""How a list of detections becomes average precision: matched boxes, precision and recall, AP by threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dfine_tools.figures.style import (
    INK,
    MAIN,
    MUTED,
    Figure,
    as_array,
    draw_box,
    draw_ground_truth,
    draw_lines,
    new_figure,
    styled,
)


@styled
def matched_boxes(
    ground_truths_xyxy: Sequence[Any],
    boxes_xyxy: Sequence[Any],
    words: Sequence[Sequence[str]],
    is_tp: Sequence[Sequence[bool]],
    size_wh: tuple[float, float],
) -> Figure:
    """Images without pixels: objects (dotted), true positives (solid), false positives (dashed).

    Args:
        ground_truths_xyxy: for each image `[G, 4]` pixels.
        boxes_xyxy: for each image `[K, 4]` pixels.
        words: for each image the text at each detection, such as its score.
        is_tp: for each image whether each detection is a true positive.
        size_wh: width and height of every image, pixels.

    Raises:
        ValueError: lists of unequal length.
    """
    if not len(ground_truths_xyxy) == len(boxes_xyxy) == len(words) == len(is_tp):
        raise ValueError("objects, boxes, words and match statuses must be given for the same images")
    counts = "; ".join(
        f"image {i}: {len(t)} objects, {sum(map(bool, r))} of {len(r)} detections true positives"
        for i, (t, r) in enumerate(zip(ground_truths_xyxy, is_tp, strict=True), start=1)
    )
    width, height = size_wh
    count = len(ground_truths_xyxy)
    figure = new_figure(5.2 * count, 5.2 * height / width + 0.7, f"Objects and matched detections. {counts}.")
    for i, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", title=f"image {i + 1}")
        axes.set(xlabel="x, pixels", ylabel="y, pixels")
        axes.grid(axis="both")
        draw_ground_truth(axes, ground_truths_xyxy[i], width=3.0, label="object")
        boxes = as_array(boxes_xyxy[i]).reshape(-1, 4)
        for number, (box, text, good) in enumerate(zip(boxes, words[i], is_tp[i], strict=True)):
            colour, dashes, kind = (MAIN, "-", "true positive") if good else (INK, (0, (5, 2.5)), "false positive")
            draw_box(axes, box, colour, dashes=dashes, label=kind)
            covers_another = any(np.abs(box - other).max() < 0.15 * width for other in boxes[:number])
            at, side = (box[3] + 1.5, "top") if covers_another else (box[1] - 1.5, "bottom")
            ground = dict(boxstyle="square,pad=0.1", facecolor="white", edgecolor="none", alpha=0.75)
            weight = "bold" if good else "normal"
            axes.text(box[0], at, text, fontsize=9, color=colour, va=side, weight=weight, bbox=ground)
    kinds = {p.get_label(): p for axes in figure.axes for p in axes.patches}
    figure.legend(kinds.values(), kinds.keys(), loc="outside lower center", ncols=3)
    return figure


@styled
def precision_recall(curves: Mapping[str, tuple[Any, Any, Any]]) -> Figure:
    """Precision against recall, as the list of detections is read by descending score; one panel a curve.

    Args:
        curves: by name: recall `[K]` and precision `[K]` after each detection, and the interpolated precision `[101]`
            at the recalls 0, 0.01, ..., 1.

    Raises:
        ValueError: recall and precision of unequal length, or another number than 101.
    """
    parts = []
    figure = new_figure(5.2 * len(curves), 4.2, "")
    for axes, (name, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        recall, precision, interpolated = map(as_array, curve)
        if recall.shape != precision.shape or interpolated.shape != (101,):
            raise ValueError(
                f"{name}: recall and precision must be [K] and interpolated [101], got {list(recall.shape)}, "
                f"{list(precision.shape)} and {list(interpolated.shape)}"
            )
        at = np.linspace(0, 1, 101)
        axes.fill_between(at, interpolated, color=MAIN, alpha=0.15, linewidth=0, step="mid")
        axes.step(at, interpolated, where="mid", color=MAIN, label="interpolated, at 101 recalls")
        axes.plot(recall, precision, color=INK, marker="o", markersize=6, linewidth=1, linestyle="--", label="measured")
        at_point: dict[tuple[float, float], list[str]] = {}
        for number, point in enumerate(zip(recall, precision, strict=True), start=1):
            at_point.setdefault(point, []).append(str(number))
        if len(recall) <= 12:
            for point, numbers in at_point.items():
                axes.annotate(", ".join(numbers), point, xytext=(6, 5), textcoords="offset points", fontsize=9)
        axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.12), xlabel="recall", ylabel="precision")
        axes.set_title(f"{name}: AP {interpolated.mean():.3f}")
        parts.append(f"{name}: AP {interpolated.mean():.3f}, highest recall {recall.max(initial=0):.2f}")
    figure.axes[0].legend(loc="lower left", framealpha=1)
    figure.alt_text = f"Precision against recall, falling in steps. {'; '.join(parts)}."
    return figure


@styled
def ap_by_threshold(thresholds: Any, curves: Mapping[str, Any]) -> Figure:
    """Average precision at each IoU threshold.

    Args:
        thresholds: `[T]`, IoU threshold of a true positive.
        curves: AP `[T]` by name.

    Raises:
        ValueError: a curve of another length.
    """
    at = as_array(thresholds)
    values = {name: as_array(curve) for name, curve in curves.items()}
    for name, curve in values.items():
        if curve.shape != at.shape:
            raise ValueError(f"{name}: {list(at.shape)} thresholds but AP {list(curve.shape)}")
    words = "; ".join(f"{name}: {v[0]:.2f} to {v[-1]:.2f}, mean {v.mean():.3f}" for name, v in values.items())
    figure = new_figure(8, 4, f"Average precision by IoU threshold {at[0]:.2f} to {at[-1]:.2f}. {words}.")
    axes = figure.subplots()
    named = {f"{name}: {curve.mean():.3f}": curve for name, curve in values.items()}
    draw_lines(axes, at, named, ((MAIN, "-"), (MUTED, "--"), (INK, ":")), marker="o", markersize=6.5)
    axes.set(ylim=(0, 1.02), xlabel="IoU threshold", ylabel="average precision")
    axes.set_xticks(at, [f"{t:.2f}" for t in at])
    axes.legend(title="mean over the thresholds", loc="lower left", title_fontsize=9.5, alignment="left")
    return figure
