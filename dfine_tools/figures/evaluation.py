"""Figures of an evaluation: ΔAP by error type, precision–recall curves, confusion matrix, errors in images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dfine_lib.errors import DfineError
from dfine_tools.analysis.errors import ERROR_TYPES, TRUE_POSITIVE, ErrorBreakdown, match_detections
from dfine_tools.analysis.image_boxes import ImageBoxes
from dfine_tools.figures.style import (
    DOTTED,
    GROUND_TRUTH,
    INK,
    MAIN,
    MUTED,
    SECOND,
    Figure,
    as_array,
    as_rgb,
    class_colour,
    draw_box,
    layer_colours,
    name_bars,
    new_figure,
    show_image,
    styled,
)

_MOST_CLASSES = 16  # of a confusion matrix: more cannot be read
_MOST_WORDS = 12  # beside false positives of one image: more would hide it
_DASHED = (0, (5, 2.5))


@styled
def errors_by_type(breakdown: ErrorBreakdown) -> Figure:
    """ΔAP of each error type, with its count.

    Args:
        breakdown: of `dfine_tools.analysis.errors.error_breakdown`.
    """
    bars = {f"{name} ({breakdown.counts[name]:,})": breakdown.delta_ap[name] for name in ERROR_TYPES}
    sides = {
        "false positives": breakdown.delta_ap_false_positives,
        "false negatives": breakdown.delta_ap_false_negatives,
    }
    bars = {**bars, **sides}
    values = ", ".join(f"{name} {'-' if np.isnan(delta) else f'{delta:.3f}'}" for name, delta in bars.items())
    at = "not measured" if np.isnan(breakdown.ap) else f"{breakdown.ap:.3f}"
    figure = new_figure(8, 3.6, f"AP at IoU {breakdown.foreground:g} is {at}; ΔAP by error type: {values}.")
    axes = figure.subplots()
    colours = [MAIN] * len(ERROR_TYPES) + [MUTED] * len(sides)
    widths = np.nan_to_num(list(bars.values()))  # without objects there is no AP
    axes.barh(range(len(bars)), widths, color=colours, height=0.7)
    for row, (delta, width) in enumerate(zip(bars.values(), widths, strict=True)):
        axes.text(width, row, " -" if np.isnan(delta) else f" {delta:+.3f}", va="center", fontsize=9)
    axes.axhline(len(ERROR_TYPES) - 0.5, color=MUTED, linewidth=0.8)
    name_bars(axes, list(bars))
    axes.set_xlim(0, max(0.01, 1.15 * max(widths)))
    axes.set_xlabel(f"ΔAP at IoU {breakdown.foreground:g} of fixing this error type alone (in brackets its count)")
    axes.set_title(f"AP at IoU {breakdown.foreground:g}: {at}")
    return figure


@styled
def precision_recall_curves(precision: Any, names: Sequence[str], iou: float = 0.5) -> Figure:
    """Precision against recall: the mean of all classes at each IoU threshold, and each class at one.

    Args:
        precision: `[10, 101, C]`, as `CocoEvaluator.precision` gives it; NaN for a class without objects.
        names: class names, C of them.
        iou: threshold of the panel with the classes, 0.50, 0.55, …, 0.95. Of more than ten classes the five best
            and the five worst have names.

    Raises:
        ValueError: another shape or threshold.
    """
    values, at = as_array(precision), np.linspace(0, 1, 101)
    thresholds = [round(0.5 + 0.05 * n, 2) for n in range(10)]
    if values.shape != (10, 101, len(names)) or iou not in thresholds:
        raise DfineError(
            f"precision must be [10, 101, {len(names)}] and iou one of {thresholds}, got {list(values.shape)} and {iou}"
        )
    measured = np.flatnonzero(~np.isnan(values).all((0, 1))) if len(names) else np.zeros(0, int)
    figure = new_figure(11, 4.3, "Precision against recall. Without objects there is nothing to measure.")
    of_all, of_each = figure.subplots(1, 2, sharey=True)
    for axes, title in ((of_all, "mean of all classes, by IoU"), (of_each, f"each class, at IoU {iou:g}")):
        axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", title=title)
        axes.grid(axis="both")
    of_all.set_ylabel("precision, interpolated")
    if not len(measured):
        return figure
    mean = values[:, :, measured].mean(2)
    for threshold, colour, curve in zip(thresholds, layer_colours(10), mean, strict=True):
        label = f"{threshold:.2f}: {curve.mean():.3f}"
        of_all.plot(at, curve, color=colour, linewidth=2 if threshold in (0.5, 0.75) else 1.1, label=label)
    aps = values[thresholds.index(iou)].mean(0)
    order = sorted(measured, key=lambda c: -aps[c])
    named = order if len(order) <= 10 else [*order[:5], *order[-5:]]
    for c in order:
        look = {"color": class_colour(named.index(c)), "linewidth": 1.5} if c in named else {"color": "#cbd2d9"}
        label = f"{names[c]}: {aps[c]:.2f}" if c in named else None
        of_each.plot(at, values[thresholds.index(iou), :, c], **{"linewidth": 0.6, **look}, label=label)
    for axes, title in ((of_all, "IoU: AP"), (of_each, "class: AP")):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, title=title, title_fontsize=8.5)
    by_iou = ", ".join(f"{t:.2f} {m.mean():.3f}" for t, m in zip(thresholds, mean, strict=True))
    classes = ", ".join(f"{names[c]} {aps[c]:.2f}" for c in named)
    figure.alt_text = f"Precision against recall. AP by IoU: {by_iou}. AP of classes at IoU {iou:g}: {classes}."
    return figure


@styled
def confusion(matrix: Any, names: Sequence[str], score: float, iou: float = 0.5) -> Figure:
    """The confusion matrix: rows are true classes, columns detected ones, shaded by fraction of the row.

    Args:
        matrix: `[C + 1, C + 1]` of `dfine_tools.analysis.errors.confusion_matrix`.
        names: class names, C of them. Of more than sixteen those with most errors are shown.
        score, iou: at which it was counted.

    Raises:
        ValueError: a matrix of another size.
    """
    counts, classes = as_array(matrix).astype(int), len(names)
    if counts.shape != (classes + 1, classes + 1):
        raise DfineError(f"{classes} names want a matrix [{classes + 1}, {classes + 1}], got {list(counts.shape)}")
    correct = np.diag(counts)[:-1]
    errors = counts[:-1].sum(1) + counts[:, :-1].sum(0) - 2 * correct
    shown = np.sort(np.argsort(-errors, kind="stable")[:_MOST_CLASSES])
    which = [*shown, classes]
    objects, missed, false = counts[:-1].sum(), counts[:-1, -1].sum(), counts[-1, :-1].sum()
    pairs = counts[:-1, :-1] * ~np.eye(classes, dtype=bool)
    top = [(pairs[a, b], names[a], names[b]) for a, b in np.argwhere(pairs)]
    most = ", ".join(f"{a} detected as {b} {n} times" for n, a, b in sorted(top, reverse=True)[:3]) or "none confused"
    side = 2.2 + 0.42 * len(which)
    figure = new_figure(
        side + 1.0, side,
        f"Confusion at score {score:g} and IoU {iou:g}: of {objects} objects {correct.sum()} true positives, "
        f"{missed} false negatives, {false} false positives on no object; {most}.",
    )  # fmt: skip
    axes = figure.subplots()
    cells = counts[np.ix_(which, which)]
    fraction = cells / np.maximum(counts[which].sum(1, keepdims=True), 1)
    axes.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(cells):
        if count:
            colour = "white" if fraction[row, column] > 0.55 else INK
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=colour)
    last = len(which) - 1.5
    axes.axhline(last, color=INK, linewidth=1)
    axes.axvline(last, color=INK, linewidth=1)
    own = [names[c] for c in shown]
    axes.set_xticks(range(len(which)), [*own, "false negative"], rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(which)), [*own, "no object"])
    left_out = f", {len(shown)} of {classes} classes" if len(shown) < classes else ""
    axes.set(xlabel="detected as", ylabel="true class", title=f"score ≥ {score:g}, IoU ≥ {iou:g}{left_out}")
    axes.grid(visible=False)
    return figure


@styled
def detection_errors(
    images: Sequence[Any], boxes: Sequence[ImageBoxes], names: Sequence[str], score: float, iou: float = 0.5
) -> Figure:
    """Images with their objects, matched or missed, and their detections, with the error type of false positives.

    Args:
        images: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1, in the pixels that the boxes are given in; at least one.
        boxes: of each image.
        names: class names by label.
        score: leave out detections below it.
        iou: IoU from which a detection can match.

    Raises:
        ValueError: lists of unequal length, or empty ones.
    """
    if not images or len(images) != len(boxes):
        raise DfineError(f"give one set of boxes for each image and at least one; got {len(boxes)} for {len(images)}")
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    height, width = np.median([as_rgb(image).shape[:2] for image in images], axis=0)
    counted = []
    figure = new_figure(11, rows * (11 / columns * height / width + 0.35) + 0.4, "")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, each in zip(grid, images, boxes, strict=False):
        show_image(axes, image)
        missed, false = _draw_errors(axes, each.above(score), names, iou)
        counted.append(f"image {each.image_id}: {missed} missed, {false} false positives")
        axes.set_title(counted[-1], fontsize=9.5)
    kinds = {p.get_label(): p for axes in grid for p in axes.patches if not p.get_label().startswith("_")}
    figure.legend(kinds.values(), kinds.keys(), loc="outside lower center", ncols=4)
    figure.alt_text = f"Objects and detections of score {score:g} or more. {'; '.join(counted)}."
    return figure


def _draw_errors(axes: Axes, image: ImageBoxes, names: Sequence[str], iou: float) -> tuple[int, int]:
    """Draw one image's boxes; the number of false negatives and of false positives."""
    matches = match_detections([image], foreground=iou)
    real = ~image.true_ignored
    for box, label, found in zip(
        image.true_boxes_xyxy[real], image.true_labels[real], matches.found.tolist(), strict=True
    ):
        if found:
            draw_box(axes, box, MUTED, dashes=DOTTED, width=1.2, label="object, matched")
        else:
            draw_box(axes, box, GROUND_TRUTH, dashes=DOTTED, width=2.4, label="object, missed")
            _say(axes, box[0], box[3], names[label], GROUND_TRUTH, "top")
    for box, crowd in zip(image.true_boxes_xyxy[~real], image.true_iscrowd[~real], strict=True):
        draw_box(axes, box, INK, dashes=DOTTED, width=1.0, label="crowd region" if crowd else "object, ignored")
    named = np.flatnonzero(matches.status >= 0)[:_MOST_WORDS]  # by falling score
    drawn = zip(range(len(image.labels)), image.boxes_xyxy, image.labels, image.scores, matches.status, strict=True)
    for k, box, label, score, status in reversed(list(drawn)):
        if status == TRUE_POSITIVE:
            draw_box(axes, box, MAIN, width=1.4, label="true positive")
        elif status >= 0:
            draw_box(axes, box, SECOND, dashes=_DASHED, width=1.6, label="false positive")
            if k in named:
                _say(axes, box[0], box[1], f"{names[label]} {score:.2f} {ERROR_TYPES[status]}", "#7a4b00", "bottom")
    return int((~matches.found).sum()), int((matches.status >= 0).sum())


def _say(axes: Axes, x: float, y: float, text: str, colour: str, side: str) -> None:
    ground = dict(boxstyle="square,pad=0.1", facecolor="white", edgecolor="none", alpha=0.75)
    axes.text(x, y, text, fontsize=6.5, color=colour, va=side, bbox=ground, clip_on=True)
