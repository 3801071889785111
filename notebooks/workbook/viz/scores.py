"""What a score learns and means: losses with their gradients, and scores against the overlap that boxes reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from dfine_tools.figures.style import (
    DOTTED,
    GROUND_TRUTH,
    INK,
    MAIN,
    MUTED,
    SECOND,
    Figure,
    as_array,
    new_figure,
    styled,
)

_TICKS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)  # scores named on the axis of logits


@styled
def loss_and_gradient(
    logits: Any, curves: Mapping[str, tuple[Any, Any]], title: str, target: float | None = None
) -> Figure:
    """Losses of one prediction and their gradients with respect to its logit, over the score.

    Args:
        logits: `[X]`.
        curves: by name of the loss, loss `[X]` and its derivative by the logit `[X]`.
        title: what kind of prediction it is.
        target: a score, 0..1, to be marked.

    Raises:
        ValueError: a curve of another length.
    """
    x = as_array(logits)
    rows = {name: (as_array(loss), as_array(gradient)) for name, (loss, gradient) in curves.items()}
    for name, pair in rows.items():
        if any(y.shape != x.shape for y in pair):
            raise ValueError(f"{name}: loss and gradient need the shape of the logits, {list(x.shape)}")
    lowest = "; ".join(
        f"{name} is lowest at score {_sigmoid(x[loss.argmin()]):.2f}" for name, (loss, _) in rows.items()
    )
    figure = new_figure(11, 3.7, f"Loss and gradient over the score of {title}. {lowest}.")
    panels = figure.subplots(1, 2)
    looks = zip((MUTED, SECOND, MAIN, INK), (DOTTED, "--", "-", "-."), (2, 4, 1.8, 1.8), strict=True)
    for (name, pair), (colour, dashes, width) in zip(rows.items(), looks):
        for axes, y in zip(panels, pair, strict=True):
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=width, label=name)
    ticks = [s for s in _TICKS if x.min() <= np.log(s / (1 - s)) <= x.max()]
    for axes, name in zip(panels, ("loss", "gradient with respect to the logit"), strict=True):
        axes.set_xticks([np.log(s / (1 - s)) for s in ticks], [f"{s:g}" for s in ticks])
        axes.set_xlim(x.min(), x.max())
        axes.set(xlabel="score p, 0 to 1 (spaced as its logit)", ylabel=name)
        if target is not None:
            axes.axvline(np.log(target / (1 - target)), color=GROUND_TRUTH, linestyle=DOTTED, linewidth=1.6, zorder=0)
            axes.annotate(
                f"IoU {target:g}", (np.log(target / (1 - target)), 1), xycoords=("data", "axes fraction"),
                ha="center", va="bottom", fontsize=9.5, color=GROUND_TRUTH,
            )  # fmt: skip
    panels[0].set_title(title, pad=18 if target is not None else 6)
    panels[1].axhline(0, color=INK, linewidth=1)
    panels[0].legend()
    return figure


@styled
def scores_against_iou(groups: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Do high scores mean good boxes? One panel a group, with Spearman's rank correlation.

    Args:
        groups: by name, IoU `[N]` and score `[N]`, both 0..1.

    Raises:
        ValueError: IoUs and scores of different lengths.
    """
    ranks = {}
    for name, (iou, score) in groups.items():
        if as_array(iou).shape != as_array(score).shape:
            raise ValueError(f"{name}: {as_array(iou).shape} IoUs but {as_array(score).shape} scores")
        ranks[name] = float(spearmanr(as_array(iou), as_array(score)).statistic)
    words = "; ".join(f"{name}: rank correlation {rank:.2f}" for name, rank in ranks.items())
    figure = new_figure(3.7 * len(groups), 3.9, f"Scores against the IoU that boxes reach. {words}.")
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for axes, (name, (iou, score)) in zip(panels, groups.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, zorder=0)
        axes.scatter(as_array(iou), as_array(score), s=12, color=MAIN, alpha=0.45, linewidths=0)
        axes.set_title(f"{name}\nrank correlation {ranks[name]:.2f}")
        axes.set(xlabel="IoU of the box with its object, 0 to 1", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    panels[0].set_ylabel("score, 0 to 1")
    return figure


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
