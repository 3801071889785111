"""Many boxes on their way through the layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfine_tools.figures.style import INK, MAIN, MUTED, SECOND, Figure, as_array, new_figure, styled


@styled
def iou_by_layer(ious: Any) -> Figure:
    """How well boxes fit the ground truth, from the initial box to the last layer's.

    Args:
        ious: `[objects, L + 1]`, IoU of each object's initial box and of its box after every layer.

    Raises:
        ValueError: not two-dimensional, or empty.
    """
    values = as_array(ious)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"ious must be [objects, L + 1], got {list(values.shape)}")
    steps = values.shape[1]
    medians, low, high = np.median(values, 0), np.quantile(values, 0.1, axis=0), np.quantile(values, 0.9, axis=0)
    names = ["initial", *(f"layer {i}" for i in range(1, steps))]
    words = ", ".join(f"{name} {m:.3f}" for name, m in zip(names, medians, strict=True))
    figure = new_figure(9.5, 3.9, f"IoU with the ground truth of {len(values)} objects by layer, median: {words}.")
    course, gain = figure.subplots(1, 2, width_ratios=(1.2, 1))
    at = np.arange(steps)
    course.plot(at, values.T, color=MUTED, alpha=min(0.5, 12 / len(values)), linewidth=0.7)
    course.fill_between(at, low, high, color=MAIN, alpha=0.2, linewidth=0, label="middle 80 %")
    course.plot(at, medians, color=MAIN, marker="o", markersize=7, label="median")
    course.set_xticks(at, names)
    course.set(title="fit of the box, layer by layer", ylabel="IoU with the ground truth")
    course.legend(loc="lower right")
    changes = values[:, -1] - values[:, 0]
    gain.hist(changes, bins=30, color=SECOND, edgecolor="white", linewidth=0.5)
    gain.axvline(0, color=INK, linewidth=1)
    better = 100 * float((changes > 0).mean())
    gain.set(
        title=f"{better:.0f} % of boxes ended better",
        xlabel="IoU of the last box minus that of the initial box",
        ylabel="objects",
    )
    return figure
