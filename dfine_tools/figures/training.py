"""Training curves of a run: loss, AP and learning rate over its epochs; AP by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dfine_tools.figures.style import INK, MAIN, MUTED, SECOND, Figure, name_bars, new_figure, styled


@styled
def training_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, validation AP and learning rate over the optimizer steps of a run.

    Args:
        rows: lines of `metrics.jsonl`, each with `kind` and `step`. Read are `loss` and `lr` of kind train, `ap` and
            `ap50` inside `raw` and `ema` of kind eval, and the steps of kind skipped. A run that was stopped early, or
            not evaluated yet, is drawn as far as it goes.
    """
    loss_x, loss_y = series(rows, "train", "loss")
    skipped = [row["step"] for row in rows if row.get("kind") == "skipped"]
    curves = {
        f"{weights} {name}": series(rows, "eval", weights.lower(), key)
        for weights in ("EMA", "raw")
        for name, key in (("AP", "ap"), ("AP50", "ap50"))
    }
    best = max(((y.max(), name) for name, (_, y) in curves.items() if len(y) and name.endswith("AP")), default=None)
    unmeasured = "no boxes to measure AP on" if any(row.get("kind") == "eval" for row in rows) else "no AP yet"
    summary = f"best AP {best[0]:.3f} ({best[1].split()[0]} weights)" if best else unmeasured
    falls = f"loss {loss_y[0]:.3g} to {loss_y[-1]:.3g}, " if len(loss_y) else ""
    figure = new_figure(12, 3.7, f"Training curves over the steps of a run: {falls}{summary}.")
    loss, ap, rate = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 0.8))

    loss.plot(loss_x, loss_y, color=MUTED, linewidth=0.8, alpha=0.6, label="as logged")
    loss.plot(loss_x, running_mean(loss_y), color=MAIN, label="running mean")
    if skipped:
        at = np.zeros(len(skipped))
        loss.plot(
            skipped, at, "x", color=INK, transform=loss.get_xaxis_transform(), clip_on=False, label="skipped step"
        )
    loss.set(title="training loss", ylabel="weighted sum of all terms")

    for name, (x, y) in curves.items():
        colour, dashes = (MAIN if name.startswith("EMA") else SECOND), (":" if name.endswith("50") else "-")
        if len(y):
            ap.plot(x, y, color=colour, linestyle=dashes, marker="o", label=name)
    ap.set(title=summary, ylabel="AP on the validation set, 0 to 1")
    ap.set_ylim(bottom=0)

    rate.plot(*series(rows, "train", "lr"), color=INK)
    rate.set(title="learning rate", ylabel="rate per step")
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", scilimits=(-3, 3))
    for axes in (loss, ap, rate):
        axes.set_xlabel("optimizer step")
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend()
    return figure


@styled
def per_class_ap(per_class: Mapping[str, float | None]) -> Figure:
    """AP of every class as bars, best first, with the mean as a line.

    Args:
        per_class: AP 0..1 by class name; None or NaN for a class without objects in the validation set.
    """
    measured = {name: float(ap) for name, ap in per_class.items() if _is_number(ap)}
    measured = dict(sorted(measured.items(), key=lambda item: -item[1]))
    absent = [name for name in per_class if name not in measured]
    names = [*measured, *absent]
    words = ", ".join(f"{name} {ap:.2f}" for name, ap in measured.items())
    words += f"; without objects: {', '.join(absent)}" if absent else ""
    figure = new_figure(7.5, 1.3 + 0.28 * max(len(names), 1), f"AP by class: {words}.")
    axes = figure.subplots()
    axes.barh(range(len(measured)), list(measured.values()), color=MAIN, height=0.7)
    for row, value in enumerate(measured.values()):
        axes.text(value + 0.01, row, f"{value:.2f}", va="center", fontsize=9, zorder=3, backgroundcolor="white")
    for row in range(len(measured), len(names)):
        axes.text(0.01, row, "no objects in the validation set", va="center", fontsize=9, color=MUTED)
    if measured:
        mean = float(np.mean(list(measured.values())))
        axes.axvline(mean, color=INK, linestyle="--", linewidth=1.2)
        axes.annotate(f"mean {mean:.3f}", (mean, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    name_bars(axes, names)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("AP, mean over IoU 0.50 to 0.95, 0 to 1")
    return figure


def running_mean(values: np.ndarray, fraction: float = 0.05) -> np.ndarray:
    """Centred mean over `fraction` of the points, one-sided at both ends; same length."""
    reach = max(1, round(len(values) * fraction / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, end = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (total[end] - total[first]) / np.maximum(end - first, 1)


def series(rows: Sequence[Mapping[str, Any]], kind: str, *keys: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one kind of row, by step; rows that lack the value or hold none are left out."""
    pairs = []
    for row in rows:
        value: Any = row if row.get("kind") == kind else {}
        for key in keys:
            value = (value or {}).get(key)
        if _is_number(value):
            pairs.append((row["step"], value))
    x, y = zip(*sorted(pairs), strict=True) if pairs else ((), ())
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
