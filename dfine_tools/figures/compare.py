"""Several runs in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dfine_lib.errors import DfineError
from dfine_tools.figures.style import INK, MAIN, MUTED, SECOND, Figure, class_colour, name_bars, new_figure, styled
from dfine_tools.runs.compare import RunCurve

_DASHES = ("-", "--", ":", "-.")


@styled
def runs_compared(runs: Sequence[RunCurve]) -> Figure:
    """AP and training loss of several runs by epoch, the best AP of each marked.

    Args:
        runs: of `dfine_tools.runs.compare.read_runs`; a run without evaluations shows its loss alone.

    Raises:
        ValueError: no run.
    """
    if not runs:
        raise DfineError("there is no run to draw")
    summary = [
        f"{run.name}: best AP {run.best[1]:.3f} in epoch {run.best[0]}" if run.best else f"{run.name}: no AP"
        for run in runs
    ]
    figure = new_figure(11.5, 4.2, f"AP and training loss of {len(runs)} runs by epoch. {'; '.join(summary)}.")
    ap, loss = figure.subplots(1, 2, width_ratios=(1.3, 1))
    for number, run in enumerate(runs):
        colour, dashes = class_colour(number), _DASHES[(number // 10 + number) % 4]
        for axes, values in ((ap, run.ap), (loss, run.loss)):
            epochs = sorted(values)
            marker = "o" if len(epochs) <= 30 else None
            axes.plot(
                epochs, [values[e] for e in epochs], color=colour, linestyle=dashes, linewidth=1.7, marker=marker,
                label=f"{run.name}: {run.best[1]:.3f}" if run.best else f"{run.name}: no AP",
            )  # fmt: skip
        if run.best:
            ap.plot(*run.best, marker="*", markersize=13, color=colour, markeredgecolor=INK, linestyle="")
    ap.set(title="AP of the EMA weights (star: best)", ylabel="AP on the validation set, 0 to 1")
    loss.set(title="training loss", ylabel="weighted sum, mean of the epoch")
    for axes, name in ((ap, "ap"), (loss, "loss")):
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if not any(getattr(run, name) for run in runs):
            axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", color=MUTED)
    handles, labels = ap.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(runs), 3))
    return figure


@styled
def published_beside_ours(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The authors' AP on COCO, that of their weights as scored here, and ours; what was not run is not drawn.

    Args:
        rows: of `dfine_tools.runs.results.published_rows`.
    """
    marks = {
        "published": (MUTED, "_", 16),
        "published weights, scored here": (SECOND, "s", 6),
        "trained here": (MAIN, "o", 8),
    }
    summary = []
    for row in rows:
        here = [f"{key} {row[key]:.1f}" for key in list(marks)[1:] if row[key] is not None]
        summary.append(f"{row['recipe']}: {row['published']:.1f}, {', '.join(here) or 'not run here'}")
    figure = new_figure(9, 3.6, f"Published AP on COCO val2017 beside ours, percent. {'; '.join(summary)}.")
    axes = figure.subplots()
    for key, (colour, marker, size) in marks.items():
        at = [(n, row[key]) for n, row in enumerate(rows) if row[key] is not None]
        x, y = zip(*at, strict=True) if at else ((), ())
        axes.plot(x, y, marker=marker, color=colour, markersize=size, markeredgewidth=2, linestyle="", label=key)
    axes.set_xticks(range(len(rows)), [row["recipe"] for row in rows], rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylabel("AP on COCO val2017, %")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@styled
def ablation(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Mean AP of every condition with its interval, and its difference from the first condition.

    Args:
        rows: of `dfine_tools.runs.sweep.condition_rows`; of a condition without AP only the name is drawn.

    Raises:
        ValueError: no condition.
    """
    if not rows:
        raise DfineError("there is no condition to draw")
    summary = [
        f"{row['condition']} " + ("not measured" if row["AP"] is None else f"{row['AP']:.3f} ({row['seeds']} seeds)")
        for row in rows
    ]
    figure = new_figure(10, 1.4 + 0.36 * len(rows), f"Mean AP by condition: {', '.join(summary)}.")
    names = [("AP", "low", "high"), ("difference", "difference low", "difference high")]
    for axes, columns in zip(figure.subplots(1, 2, sharey=True), names, strict=True):
        for index, row in enumerate(rows):
            mean, low, high = (row[name] for name in columns)
            if mean is not None:
                reach = None if low is None else [[mean - low], [high - mean]]
                colour = MAIN if index else INK
                axes.errorbar(mean, index, xerr=reach, fmt="o", color=colour, markersize=7, capsize=4)
        name_bars(axes, [f"{row['condition']} ({row['seeds']})" for row in rows])
    ap, difference = figure.axes
    ap.set(title="AP, mean and 95 % interval (number of seeds)", xlabel="AP after the last epoch, 0 to 1")
    difference.axvline(0, color=MUTED, linewidth=1)
    difference.set(title=f"compared with {rows[0]['condition']}", xlabel="difference in AP, seed by seed")
    return figure
