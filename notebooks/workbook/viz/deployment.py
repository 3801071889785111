"""What folding does: kernels that become one, and how many operations are left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm

from dfine_tools.figures.style import INK, MAIN, MUTED, Figure, as_array, name_bars, new_figure, styled


@styled
def folded_kernels(kernels: Mapping[str, Any]) -> Figure:
    """Small kernels side by side, every weight written into its cell.

    Args:
        kernels: `[k, k]` by name; the last is the sum of the ones before it.
    """
    arrays = {name: np.atleast_2d(as_array(kernel)) for name, kernel in kernels.items()}
    most = max(float(np.abs(a).max()) for a in arrays.values()) or 1.0
    sizes = ", ".join(f"{name} {a.shape[0]} by {a.shape[1]}" for name, a in arrays.items())
    centre = [float(a[a.shape[0] // 2, a.shape[1] // 2]) for a in arrays.values()]
    words = " plus ".join(f"{c:+.2f}" for c in centre[:-1]) + f" gives {centre[-1]:+.2f}"
    figure = new_figure(3.0 * len(arrays), 3.0, f"Kernels: {sizes}. In the centre, {words}; elsewhere nothing changes.")
    widths = [a.shape[1] + 0.6 for a in arrays.values()]
    for axes, (name, a), sign in zip(
        figure.subplots(1, len(arrays), width_ratios=widths), arrays.items(), ["", *"+" * (len(arrays) - 2), "="]
    ):
        axes.imshow(a, cmap="RdBu", norm=TwoSlopeNorm(0, -1.4 * most, 1.4 * most))
        for (row, column), weight in np.ndenumerate(a):
            axes.text(column, row, f"{weight:+.2f}", ha="center", va="center", fontsize=10, color=INK)
        axes.set_title(f"{sign} {name}".strip(), loc="center")
        axes.set_axis_off()
    return figure


@styled
def operation_counts(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """How many operations of each kind a model has, in several of its forms.

    Args:
        counts: number by kind, by form; the first form is drawn light, the last dark.
    """
    kinds = sorted(
        {kind for one in counts.values() for kind in one}, key=lambda k: -max(c.get(k, 0) for c in counts.values())
    )
    words = "; ".join(f"{kind} " + " to ".join(str(one.get(kind, 0)) for one in counts.values()) for kind in kinds)
    figure = new_figure(8.5, 1.2 + 0.42 * len(kinds), f"Operations by kind, {' to '.join(counts)}: {words}.")
    axes = figure.subplots()
    height = 0.8 / len(counts)
    shades = [MUTED, MAIN] if len(counts) == 2 else [MAIN] * len(counts)
    for number, ((form, one), colour) in enumerate(zip(counts.items(), shades)):
        at = np.arange(len(kinds)) + (number - (len(counts) - 1) / 2) * height
        values = [one.get(kind, 0) for kind in kinds]
        axes.barh(at, values, height=0.92 * height, color=colour, label=form)
        for y, value in zip(at, values):
            axes.text(value, y, f" {value}", va="center", fontsize=9)
    name_bars(axes, kinds)
    axes.set_xlabel("number of modules")
    axes.legend(loc="lower right")
    return figure
