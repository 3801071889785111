"""A run as it stands, drawn from its folder: while it trains, after it was stopped, when it is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from tqdm import tqdm

from dfine_lib.data.images import DataError, read_image
from dfine_lib.train.run_folder import read_rows
from dfine_tools.figures.style import INK, MAIN, MUTED, SECOND, Figure, layer_colours, new_figure, styled
from dfine_tools.figures.training import running_mean, series
from workbook.viz.detections import draw_pair

PAIRS = 3  # samples shown, each as a pair of images


@styled
def live_run(run_folder: str | Path, score: float = 0.4) -> Figure:
    """Loss, AP, waiting for data and sample detections of a run, from nothing but the files in its folder.

    Read are `metrics.jsonl`, `run.json`, `samples.json` and whether `metrics.json` is there; images come from the
    files that `samples.json` names. Whatever is not there yet is left empty and says so: an unfinished folder, an
    empty one, one whose last line was cut off.

    Args:
        run_folder: of a training run; nothing is written into it.
        score: leave out sample detections below it.
    """
    folder = Path(run_folder)
    rows = read_rows(folder / "metrics.jsonl")
    about, samples = _content(folder / "run.json"), _content(folder / "samples.json")
    headline = _headline(rows, about, finished=(folder / "metrics.json").exists())
    with mpl.rc_context({"figure.dpi": 85}):  # it is sent to the notebook every few seconds
        figure = new_figure(12, 5.6, "")
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    above.suptitle(headline, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    loss, ap, wait = above.subplots(1, 3, width_ratios=(1.2, 1.2, 0.9))
    words = [
        headline,
        _draw_loss(loss, rows),
        _draw_ap(ap, rows, about.get("recipe", {}).get("train", {}).get("epochs")),
        _draw_wait(wait, rows),
        _draw_samples(below, samples, score),
    ]
    figure.alt_text = f"A training run, drawn from its folder. {'; '.join(words)}."
    return figure


@styled
def loss_by_kind(steps: Sequence[int], values: Mapping[str, Sequence[float]]) -> Figure:
    """How the parts of a loss change over a run, one line a part, named at its end.

    Args:
        steps: optimizer steps.
        values: by name of the part, its value at each of the steps.

    Raises:
        ValueError: a part with another number of values than there are steps.
    """
    for name, line in values.items():
        if len(line) != len(steps):
            raise ValueError(f"{name}: {len(line)} values for {len(steps)} steps")
    words = ", ".join(f"{name} {line[0]:.2f} to {line[-1]:.2f}" for name, line in values.items())
    figure = new_figure(7.5, 3.3, f"Parts of the training loss, from the first step drawn to the last: {words}.")
    axes = figure.subplots()
    top = max(max(line) for line in values.values())
    height = -np.inf
    for number, (name, line) in enumerate(sorted(values.items(), key=lambda item: item[1][-1])):
        colour = layer_colours(len(values))[number]
        axes.plot(steps, line, color=colour, marker="osD^vP*"[number % 7])
        height = max(line[-1], height + 0.075 * top)  # names keep clear of each other
        axes.annotate(
            name, (steps[-1], line[-1]), (1.02, height), textcoords=axes.get_yaxis_transform(), va="center", color=INK,
            fontsize=9.5,
        )  # fmt: skip
    axes.set(xlabel="optimizer step", ylabel="part of the loss, weighted", ylim=(0, 1.05 * top))
    axes.set_title("loss by kind, summed over the outputs of the model")
    return figure


def _content(file: Path) -> dict[str, Any]:
    """A JSON file's object; empty where it is not there or not whole."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _headline(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any], finished: bool) -> str:
    """Which run it is and how far it has come."""
    name = about.get("recipe", {}).get("name", "run")
    last = next((row for row in reversed(rows) if row.get("kind") == "train"), None)
    if finished:
        return f"{name}: finished" + (f" after {last['total']} steps" if last else "")
    if last is None:
        return f"{name}: waiting for the first steps" if about or rows else "waiting for a run to begin in this folder"
    left = (last["total"] - last["step"] - 1) * (last.get("seconds_per_step") or 0)
    left = tqdm.format_interval(left)
    return f"{name}: step {last['step'] + 1} of {last['total']}, epoch {last['epoch'] + 1}, {left} left"


def _draw_loss(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> str:
    steps, values = series(rows, "train", "loss")
    axes.set(title="training loss", ylabel="weighted sum of all terms")
    if not _drawable(axes, len(values), "no training row yet"):
        return "no training loss yet"
    axes.plot(steps + 1, values, color=MUTED, linewidth=0.9, marker=".", alpha=0.7, label="as logged")
    axes.plot(steps + 1, running_mean(values, 0.2), color=MAIN, label="running mean")
    axes.set_ylim(bottom=0)
    _mark_restarts(axes, rows)
    _set_steps(axes, rows)
    axes.legend(loc="lower left", frameon=True, edgecolor="none", framealpha=0.9)
    return f"training loss {values[0]:.3g} at first, {values[-1]:.3g} now"


def _draw_ap(axes: Axes, rows: Sequence[Mapping[str, Any]], epochs: int | None) -> str:
    axes.set(title="AP on the validation set", ylabel="AP, 0 to 1")
    evaluated = [{**row, "step": row["epoch"] + 1} for row in rows if row.get("kind") == "eval"]
    curves = {name: series(evaluated, "eval", name, "ap") for name in ("ema", "raw")}
    why = "no boxes to measure AP on" if evaluated else "no evaluation yet"
    if not _drawable(axes, max(len(values) for _, values in curves.values()), why):
        return why if evaluated else "no AP yet"
    said = []
    for name, colour, marker, words in (("ema", MAIN, "o", "EMA"), ("raw", SECOND, "s", "non-EMA")):
        at, values = curves[name]
        axes.plot(at, values, color=colour, marker=marker, linestyle="-" if name == "ema" else "--", label=words)
        if len(values):
            said.append(f"{values[-1]:.2f} {words}")
    last = int(max(row["step"] for row in evaluated))
    axes.set_xlim(0.5, max(last, epochs or 0) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylim=(0, 1))
    axes.legend(loc="upper left")
    return f"AP after epoch {last}: {', '.join(said)}"


def _draw_wait(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> str:
    steps, fractions = series(rows, "train", "data_wait_share")
    axes.set(title="waiting for data", ylabel="fraction of the time, %")
    if not _drawable(axes, len(fractions), "no training row yet"):
        return "no reading of the time spent waiting yet"
    axes.fill_between(steps + 1, 0, 100 * fractions, color=MAIN, alpha=0.25, linewidth=0)
    axes.plot(steps + 1, 100 * fractions, color=MAIN)
    axes.set_ylim(0, 100)
    _mark_restarts(axes, rows)
    _set_steps(axes, rows)
    seconds = series(rows, "train", "seconds")[1]
    mean = (
        np.average(fractions, weights=seconds)
        if len(seconds) == len(fractions) and seconds.sum() > 0
        else fractions.mean()
    )
    axes.annotate(f"{100 * mean:.0f} % over all", (0.97, 0.95), xycoords="axes fraction", ha="right", va="top")
    return f"{100 * mean:.0f} % of the time spent waiting for data"


def _draw_samples(figure: SubFigure, samples: Mapping[str, Any], score: float) -> str:
    """Images of the latest evaluation: the ground truth beside what was found."""
    shown = samples.get("images", [])[:PAIRS]
    if not shown:
        words = "no sample detections yet: they come with the first evaluation"
        figure.text(0.5, 0.5, words, ha="center", va="center", color=MUTED)
        return words
    epoch = f"after epoch {samples['epoch'] + 1}"
    figure.suptitle(
        f"validation images {epoch}: the ground truth, and what the EMA weights find", x=0.01, ha="left", fontsize=11
    )
    pairs = figure.subplots(1, 2 * PAIRS).reshape(PAIRS, 2)
    counts = []
    for axes in pairs[len(shown) :].ravel():
        axes.set_axis_off()
    for (there, here), sample in zip(pairs, shown):
        found, ground_truth = sample["detections"], sample["truth"]  # old name
        draw_pair(there, here, _pixels(sample), found, ground_truth, samples["category_names"], score)
        counts.append(f"{len(ground_truth['labels'])} there, {sum(s >= score for s in found['scores'])} found")
    return f"sample detections {epoch}, score at least {score:g}: {' | '.join(counts)}"


def _pixels(sample: Mapping[str, Any]) -> Any:
    """The image, or plain grey of its size where the file is gone: boxes are worth seeing without it too.

    In 32 levels a channel, which the eye hardly sees: noise is most of a stored image's bytes.
    """
    try:
        return read_image(Path(sample["file"])) // 8 * 8 + 4
    except DataError:
        width, height = sample["size_wh"]
        return np.full((height, width, 3), 200, dtype=np.uint8)


def _drawable(axes: Axes, count: int, otherwise: str) -> bool:
    """Whether there is anything to draw; where not, the axes say so."""
    if count == 0:
        axes.set(xticks=[], yticks=[], xlabel="")
        axes.text(0.5, 0.5, otherwise, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    return count > 0


def _set_steps(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The whole length of the run as the axis, so that one sees how much is still to come."""
    axes.set_xlabel("optimizer step")
    axes.set_xlim(0, max(row["total"] for row in rows if row.get("kind") == "train") * 1.02)


def _mark_restarts(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line where a run was resumed."""
    starts = [row["step"] for row in rows if row.get("kind") == "session"][1:]
    for number, step in enumerate(starts):
        axes.axvline(step, color=INK, linestyle=":", linewidth=1.3, label="resumed" if number == 0 else None)
