"""What a model costs: parameters and operations by part and size, and step by step along the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dfine_tools.figures.style import GROUND_TRUTH, INK, MAIN, MUTED, SECOND, Figure, name_bars, new_figure, styled

_SHADES = [MUTED, MAIN, SECOND]


@styled
def cost_by_part(
    parameters: Mapping[str, Mapping[str, float]],
    flops: Mapping[str, Mapping[str, float]],
    published: Mapping[str, Sequence[float]],
) -> Figure:
    """Stacked bars, one a size: millions of parameters on the left, GFLOPs on the right, the published total marked.

    Args:
        parameters: counts by part, by size; parts in the order in which they are stacked.
        flops: the same for operations.
        published: by size, millions of parameters and GFLOPs.

    Raises:
        ValueError: sizes of the three differ.
    """
    if not set(parameters) == set(flops) == set(published):
        raise ValueError(f"sizes differ: {list(parameters)}, {list(flops)}, {list(published)}")
    words = "; ".join(
        f"{size} {sum(parameters[size].values()) / 1e6:.1f} million parameters, {sum(flops[size].values()) / 1e9:.1f} "
        f"GFLOPs (published {published[size][0]:g} and {published[size][1]:g})"
        for size in parameters
    )
    fractions = "; ".join(
        f"{size} " + ", ".join(f"{part} {100 * n / sum(flops[size].values()):.0f}" for part, n in flops[size].items())
        for size in flops
    )
    figure = new_figure(
        11, 6.2, f"Cost of each size, stacked by part. {words}. Fractions of the operations, %: {fractions}."
    )
    rows = figure.subplots(2, 2, height_ratios=(1.25, 1), sharex="col")
    units = (("parameters", "million", 1e6), ("operations, one image of 640 × 640 px", "GFLOPs", 1e9))
    for column, (counts, (title, label, unit)) in enumerate(zip((parameters, flops), units)):
        upper, lower = rows[:, column]
        at, totals = np.arange(len(counts)), np.array([sum(one.values()) for one in counts.values()])
        for axes, scale in ((upper, np.full(len(at), unit)), (lower, totals / 100)):
            bottom = np.zeros(len(at))
            for part, colour, ink in zip(next(iter(counts.values())), _SHADES, ("white", "white", INK)):
                heights = np.array([one[part] for one in counts.values()]) / scale
                axes.bar(at, heights, bottom=bottom, width=0.62, color=colour, label=part, edgecolor="white")
                if axes is lower:
                    for x, (y, percent) in enumerate(zip(bottom + heights / 2, heights)):
                        axes.text(x, y, f"{percent:.0f}", ha="center", va="center_baseline", fontsize=9, color=ink)
                bottom += heights
        totals_published = [published[size][column] for size in counts]
        upper.scatter(
            at,
            totals_published,
            marker="D",
            s=34,
            color="white",
            edgecolor=GROUND_TRUTH,
            linewidth=1.8,
            label="published",
        )
        for x, (y, said) in enumerate(zip(totals / unit, totals_published)):
            upper.text(x, max(y, said) + 0.035 * totals.max() / unit, f"{y:.1f}", ha="center", va="bottom", fontsize=10)
        upper.set(title=title, ylabel=label, ylim=(0, 1.15 * totals.max() / unit))
        lower.set(xlabel="size", ylabel="fraction of the whole, %", ylim=(0, 100))
        lower.set_xticks(at, list(counts))
        upper.tick_params(bottom=False)
    handles, labels = upper.get_legend_handles_labels()
    upper.legend(handles[::-1], labels[::-1], loc="upper left")  # in the order in which bars are stacked
    return figure


@styled
def cost_by_step(parameters: Mapping[str, float], flops: Mapping[str, float]) -> Figure:
    """For every step of the forward pass, its fraction of all parameters beside its fraction of all operations.

    Args:
        parameters: count by step, in the order of the forward pass.
        flops: the same for operations.

    Raises:
        ValueError: steps of the two differ.
    """
    if list(parameters) != list(flops):
        raise ValueError(f"steps differ: {list(parameters)} and {list(flops)}")
    percents = [
        100 * np.array([counts[step] for step in counts]) / sum(counts.values()) for counts in (parameters, flops)
    ]
    words = "; ".join(f"{step} {p:.1f} and {f:.1f}" for step, p, f in zip(parameters, *percents))
    figure = new_figure(9, 0.9 + 0.42 * len(parameters), f"Fraction of parameters and of operations, %: {words}.")
    axes = figure.subplots()
    at = np.arange(len(parameters))
    for values, shift, colour, name in zip(percents, (-0.2, 0.2), (MUTED, MAIN), ("parameters", "operations")):
        axes.barh(at + shift, values, height=0.38, color=colour, label=name)
        for y, value in zip(at + shift, values):
            axes.text(value + 0.3, y, f"{value:.1f}", va="center", fontsize=9, color=INK)
    name_bars(axes, list(parameters))
    axes.set_xlim(0, 1.12 * max(float(values.max()) for values in percents))
    axes.set_xlabel("fraction of the whole model, %")
    axes.legend(loc="lower right")
    return figure
