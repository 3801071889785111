"""How fast detectors are, and how good: ours as measured here, the authors' as published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from dfine_tools.figures.style import INK, MAIN, MUTED, SECOND, Figure, name_bars, new_figure, styled


@styled
def accuracy_by_latency(report: Mapping[str, Any]) -> Figure:
    """AP over milliseconds on the left, published numbers marked as such; milliseconds of every row on the right.

    Ours are on the left only where AP is known. The two sets of points come from different machines and mostly from
    different data: only the axes are common.

    Args:
        report: of `dfine_tools.deploy.bench.BenchReport.to_dict`.
    """
    rows, published = report["latencies"], report["published"]
    words = [f"{_name(row)} {row['model_only']['median']:.1f} ms" + _ap(row) for row in rows]
    summary = ", ".join(f"{size} {one['latency_ms']:g} ms at AP {one['ap']:g}" for size, one in published.items())
    figure = new_figure(
        12, max(4.2, 1.6 + 0.42 * len(rows)),
        f"Latency, ours on {report['machine']['processor']}: {'; '.join(words) or 'none'}. Published, one T4, TensorRT "
        f"fp16, COCO: {summary}.",
    )  # fmt: skip
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    left.plot(
        [one["latency_ms"] for one in published.values()], [one["ap"] for one in published.values()],
        marker="D", color=MUTED, markerfacecolor="white", markersize=6, linestyle=":", linewidth=1.2,
        label="published: T4, TensorRT fp16, COCO val2017",
    )  # fmt: skip
    for size, one in published.items():
        left.annotate(size, (one["latency_ms"], one["ap"]), xytext=(5, -11), textcoords="offset points", color=MUTED)
    known = [row for row in rows if row["ap"] is not None]
    left.plot(
        [row["model_only"]["median"] / row["batch"] for row in known], [100 * row["ap"] for row in known],
        marker="o", color=MAIN, markersize=7, linestyle="",
        label="ours: this machine, the AP in the file beside the model" if known else "ours: no AP is known",
    )  # fmt: skip
    left.set_xscale("log")
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter(ScalarFormatter())
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set(xlabel="ms an image, model only", ylabel="AP, %", title="AP by latency")
    left.margins(y=0.15)
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.07), fontsize=8.5)

    for at, row in enumerate(rows):
        for part, shift, colour, label in (
            ("model_only", -0.17, MAIN, "model only"), ("end_to_end", 0.17, SECOND, "end to end"),
        ):  # fmt: skip
            one = row[part]
            reach = [[one["median"] - one["low"]], [one["high"] - one["median"]]]
            bar = dict(color=colour, ecolor=INK, capsize=2, label="" if at else label)
            right.barh(at + shift, one["median"], 0.32, xerr=reach, **bar)
    name_bars(right, [_name(row) for row in rows], fontsize=8.5)
    right.set(xlabel="ms a call, and its interquartile range", title="Measured here")
    if rows:
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.07), fontsize=8.5)
    return figure


def _name(row: Mapping[str, Any]) -> str:
    precision = f" {row['precision']}" if row["precision"] else ""
    height, width = row["image_hw"]
    return f"{row['model']}, {row['backend']}{precision}, {height} x {width}, batch {row['batch']}"


def _ap(row: Mapping[str, Any]) -> str:
    return "" if row["ap"] is None else f" at AP {100 * row['ap']:.1f}"
