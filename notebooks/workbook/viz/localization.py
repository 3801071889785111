"""How distributions are taught: soft labels on two bins, a distribution that learns, a student and its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dfine_tools.figures.style import (
    MAIN,
    SECOND,
    Figure,
    as_array,
    draw_box,
    layer_colours,
    new_figure,
    show_image,
    styled,
)
from workbook.viz.edges import bin_axis, mark_true_edge, softmax


@styled
def soft_label(bin_offsets: Any, offset: float, distribution: Any | None = None) -> Figure:
    """The target of an edge that lies `offset` away: its weights on two neighbouring bins, and what is predicted.

    Args:
        bin_offsets: W as a fraction of the side, `[N + 1]`.
        offset: of the true edge, as a fraction of the side.
        distribution: predicted probabilities, `[N + 1]`.
    """
    W = as_array(bin_offsets)
    left = int(np.clip(np.searchsorted(W, offset, side="right") - 1, 0, len(W) - 2))
    right_weight = float(np.clip((offset - W[left]) / (W[left + 1] - W[left]), 0, 1))
    label = np.zeros(len(W))
    label[left], label[left + 1] = 1 - right_weight, right_weight  # interpolation weights
    figure = new_figure(
        10,
        3.6,
        f"Soft label of an edge {100 * offset:+.1f} % of the side away: bin {left} has {label[left]:.2f}, "
        f"bin {left + 1} has {label[left + 1]:.2f}, all others 0.",
    )
    if distribution is not None:
        on_label = float(as_array(distribution)[left : left + 2].sum())
        figure.alt_text += f" The prediction has {on_label:.2f} on these two."
    axes = figure.subplots()
    axes.bar(np.arange(len(W)), label, width=0.75, color=SECOND, label="soft label")
    if distribution is not None:
        axes.step(np.arange(len(W)), as_array(distribution), where="mid", color=MAIN, label="predicted")
    mark_true_edge(axes, offset, W)
    for bin_number in (left, left + 1):
        if label[bin_number] > 0.005:
            axes.text(bin_number, label[bin_number] + 0.02, f"{label[bin_number]:.2f}", ha="center", fontsize=9.5)
    axes.set_ylim(0, 1.12)
    axes.set_title(f"true edge {100 * offset:+.1f} % of the side away: between bins {left} and {left + 1}")
    _bins(axes, W)
    axes.legend(loc="upper left")
    return figure


@styled
def distribution_by_step(bin_offsets: Any, distributions: Mapping[int, Any], offset: float) -> Figure:
    """One edge distribution while it learns.

    Args:
        bin_offsets: W as a fraction of the side, `[N + 1]`.
        distributions: probabilities `[N + 1]` by step, first to last.
        offset: of the true edge, as a fraction of the side.
    """
    W = as_array(bin_offsets)
    rows = {step: as_array(p) for step, p in distributions.items()}
    means = {step: float(p @ W) for step, p in rows.items()}
    words = ", ".join(f"step {step} {100 * m:+.1f} %" for step, m in means.items())
    figure = new_figure(
        10, 3.8, f"An edge distribution at several steps of training; true offset {100 * offset:+.1f} %, mean: {words}."
    )
    axes = figure.subplots()
    for (step, p), colour in zip(rows.items(), layer_colours(len(rows)), strict=True):
        label = f"step {step}: mean {100 * means[step]:+.1f} %"
        axes.step(np.arange(len(W)), p, where="mid", color=colour, label=label)
    mark_true_edge(axes, offset, W, f"true edge {100 * offset:+.1f} %")
    _bins(axes, W)
    axes.legend(loc="upper left")
    return figure


@styled
def softened_distributions(bin_offsets: Any, teacher_logits: Any, student_logits: Any, temperature: float) -> Figure:
    """Teacher and student as they are and softened by a temperature, with how far apart they are.

    Args:
        bin_offsets: W as a fraction of the side, `[N + 1]`.
        teacher_logits, student_logits: of one edge, `[N + 1]`.
        temperature: T, at least 1.
    """
    W = as_array(bin_offsets)
    panels, words = [], []
    for T in (1.0, float(temperature)):
        teacher, student = (softmax(as_array(logits) / T) for logits in (teacher_logits, student_logits))
        divergence = float((teacher * np.log(teacher / student)).sum())
        panels.append((T, teacher, student, divergence))
        words.append(
            f"at T = {T:g} they are {divergence:.3f} apart (KL), the teacher's highest bin {teacher.max():.2f}"
        )
    figure = new_figure(11, 3.6, f"Teacher's and student's edge distributions: {'; '.join(words)}.")
    for axes, (T, teacher, student, divergence) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.fill_between(np.arange(len(W)), teacher, step="mid", color=MAIN, alpha=0.25, linewidth=0)
        axes.step(np.arange(len(W)), teacher, where="mid", color=MAIN, label="teacher (last layer)")
        axes.step(np.arange(len(W)), student, where="mid", color=SECOND, linestyle="--", label="student")
        axes.set_title(f"T = {T:g}: KL {divergence:.3f}, times T² {divergence * T * T:.2f}")
        axes.set_ylim(bottom=0)
        _bins(axes, W)
    axes.legend(loc="upper left")
    return figure


@styled
def query_weights(image: Any, boxes_xyxy: Any, weights: Any, matched: Sequence[bool] | Any) -> Figure:
    """Every query's box on the image, as strong as its weight; matched and unmatched queries apart.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, in the pixels of the boxes.
        boxes_xyxy: `[Q, 4]` pixels.
        weights: `[Q]`, 0..1.
        matched: bool `[Q]`.
    """
    boxes, weights, matched = as_array(boxes_xyxy), as_array(weights), as_array(matched).astype(bool)
    words = "; ".join(
        f"{mask.sum()} {name} with weights from {weights[mask].min():.2f} to {weights[mask].max():.2f}"
        for name, mask in (("matched", matched), ("unmatched", ~matched))
        if mask.any()
    )
    figure = new_figure(11, 3.9, f"Queries and their weights in distillation: {words}.")
    left, right, chart = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    for axes, mask, name, colour in ((left, matched, "matched", MAIN), (right, ~matched, "unmatched", SECOND)):
        show_image(axes, image)
        axes.set_title(f"{mask.sum()} {name} queries")
        for box, weight in sorted(zip(boxes[mask], weights[mask], strict=True), key=lambda pair: pair[1]):
            drawn = draw_box(axes, box, colour, width=0.6 + 2.4 * weight)
            drawn.set_path_effects([])  # a casing would make faint boxes strong
            drawn.set_alpha(max(0.25, float(weight)))
    bins = np.linspace(0, 1, 21)
    chart.hist(
        [weights[matched], weights[~matched]],
        bins=bins,
        color=[MAIN, SECOND],
        label=["matched: IoU", "unmatched: score"],
    )
    chart.set_yscale("symlog", linthresh=1)
    chart.set(title="their weights", xlabel="weight, 0 to 1", ylabel="queries")
    chart.legend()
    return figure


def _bins(axes: Axes, W: np.ndarray) -> None:
    ticks = np.unique(np.linspace(0, len(W) - 1, 9).round().astype(int))
    bin_axis(axes, W, ticks, "offset that a bin stands for, % of the side")
    axes.set_ylabel("probability")
