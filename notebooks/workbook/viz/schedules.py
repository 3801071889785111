"""What happens along a run: how long an average remembers, what it costs, and the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dfine_tools.figures.style import (
    DOTTED,
    GROUND_TRUTH,
    INK,
    MAIN,
    MUTED,
    SECOND,
    Figure,
    as_array,
    draw_lines,
    new_figure,
    styled,
)

_LOOKS = ((GROUND_TRUTH, DOTTED), (SECOND, "--"), (MAIN, "-"), (MUTED, "-."))


@styled
def initial_weights_left(fractions: Mapping[str, Any], found_by_fraction: Mapping[float, int], objects: int) -> Figure:
    """How much of the initial weights an average holds along a run, and what a detector with so much of them finds.

    Args:
        fractions: by name of the setting, the fraction after every step, `[T]`, 0..1.
        found_by_fraction: number of objects found, by fraction of initial weights.
        objects: how many there are.
    """
    rows = {name: 100 * as_array(values) for name, values in fractions.items()}
    ends = "; ".join(f"{name}: {values[-1]:.0f} % after {len(values)} steps" for name, values in rows.items())
    found = ", ".join(f"{number} with {fraction:.0%}" for fraction, number in sorted(found_by_fraction.items()))
    figure = new_figure(11, 3.8, f"Initial weights left in the average. {ends}. Objects found, of {objects}: {found}.")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    draw_lines(left, None, rows, _LOOKS)
    left.set(title="what the average holds", xlabel="optimizer step", ylabel="initial weights left, %", ylim=(-3, 104))
    left.legend(loc="center right")
    x, y = zip(*sorted(found_by_fraction.items()), strict=True)
    right.plot(100 * np.array(x), y, color=MAIN, marker="o")
    right.axhline(objects, color=MUTED, linestyle="--", linewidth=1.2)
    right.annotate(
        f"{objects} objects", (1, objects), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9.5
    )
    right.set(
        title="what a detector made of it finds", xlabel="initial weights left, %", ylabel="objects found",
        ylim=(-0.03 * objects, 1.12 * objects),
    )  # fmt: skip
    return figure


@styled
def averages_over_run(errors: Mapping[str, Any], ylabel: str) -> Figure:
    """An error along a run, of the non-EMA weights and of averages; logarithmic.

    Args:
        errors: by name, the error after every step, `[T]`, above 0; the first, of the non-EMA weights, is drawn light.
        ylabel: what is measured, with its unit.

    Raises:
        ValueError: an error that a logarithmic axis cannot show.
    """
    rows = {name: as_array(error) for name, error in errors.items()}
    for name, error in rows.items():
        if not (error > 0).all():
            raise ValueError(f"{name}: a logarithmic axis needs errors above 0")
    ends = "; ".join(f"{name} {error[-len(error) // 5 :].mean():.3g}" for name, error in rows.items())
    figure = new_figure(9, 3.9, f"Error along a run of non-EMA and EMA weights; mean of the last fifth: {ends}.")
    axes = figure.subplots()
    first, *others = rows
    draw_lines(axes, None, {first: rows[first]}, ((MUTED, "-"),), linewidth=4, alpha=0.45)
    draw_lines(axes, None, {name: rows[name] for name in others}, _LOOKS)
    axes.set_yscale("log")
    axes.set(xlabel="optimizer step", ylabel=ylabel)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def rate_schedules(factors: Mapping[str, Any]) -> Figure:
    """Learning rate, as a fraction of the highest, at every step of a run, by name of the schedule, each `[T]`."""
    rows = {name: as_array(factor) for name, factor in factors.items()}
    words = "; ".join(
        f"{name}: highest from step {int(factor.argmax()) + 1}, {factor[-1]:.0%} at the end"
        for name, factor in rows.items()
    )
    figure = new_figure(9, 3.4, f"Learning rate along a run. {words}.")
    axes = figure.subplots()
    for (name, factor), (colour, dashes), width in zip(rows.items(), _LOOKS, (2.4, 5, 1.8, 1.8)):
        x = np.arange(1, len(factor) + 1)
        axes.plot(x, 100 * factor, color=colour, linestyle=dashes, linewidth=width, label=name)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="optimizer step", ylabel="learning rate, % of the highest", ylim=(-2, 106))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
