"""What figures of edge distributions share: probabilities, offsets in pixels, the axis of bins, the true edge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dfine_tools.figures.style import DOTTED, GROUND_TRUTH, MUTED, as_array

EDGES = ("left", "top", "right", "bottom")
_OUTWARD = np.array([-1, -1, 1, 1])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def distributions(corner_logits_by_layer: Any, boxes_by_layer_xyxy: Any, bin_offsets: Any) -> np.ndarray:
    """Probabilities of the bins of four edges after every layer, `[L, 4, N + 1]`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    logits, boxes, offsets = as_array(corner_logits_by_layer), as_array(boxes_by_layer_xyxy), as_array(bin_offsets)
    if logits.shape != (len(boxes) - 1, 4, len(offsets)) or boxes.shape[1:] != (4,):
        raise ValueError(
            f"logits [L, 4, N + 1], boxes [L + 1, 4] and offsets [N + 1] do not fit: "
            f"{list(logits.shape)}, {list(boxes.shape)} and {list(offsets.shape)}"
        )
    return softmax(logits)


def sides_px(initial_xyxy: np.ndarray) -> np.ndarray:
    """The side of the initial box that each of its four edges moves along, `[4]` pixels."""
    x1, y1, x2, y2 = initial_xyxy
    return np.array([x2 - x1, y2 - y1] * 2)


def offsets_to(ground_truth_xyxy: Any, initial_xyxy: np.ndarray) -> np.ndarray:
    """Offsets `[4]` from an initial box to the ground-truth box, as fractions of the initial box's sides."""
    return (as_array(ground_truth_xyxy) - initial_xyxy) * _OUTWARD / np.maximum(sides_px(initial_xyxy), 1e-9)


def std_px(steps: Any) -> np.ndarray:
    """Standard deviation of each edge's offset after each layer of a `Refinement`, `[L, 4]` pixels."""
    boxes, offsets = as_array(steps.boxes_by_layer_xyxy), as_array(steps.bin_offsets)
    probabilities = distributions(steps.corner_logits_by_layer, boxes, offsets)
    means = probabilities @ offsets
    return np.sqrt((probabilities * (offsets - means[..., None]) ** 2).sum(-1)) * sides_px(boxes[0])


def bin_of(offset: Any, bin_offsets: np.ndarray) -> Any:
    """Where an offset lies on the axis of bins, also between two of them."""
    return np.interp(offset, bin_offsets, np.arange(len(bin_offsets)))


def mark_true_edge(axes: Axes, offset: float, bin_offsets: np.ndarray, label: str = "true edge") -> None:
    axes.axvline(bin_of(offset, bin_offsets), color=GROUND_TRUTH, linestyle=DOTTED, linewidth=2.2, label=label)


def bin_axis(axes: Axes, bin_offsets: np.ndarray, ticks: Iterable[int], xlabel: str = "") -> None:
    """Evenly spaced bins, as the network sees them; the ticks tell which offset a bin stands for."""
    shown = list(ticks)
    axes.axvline((len(bin_offsets) - 1) / 2, color=MUTED, linewidth=0.8, zorder=0)
    axes.set_xticks(shown, [_percent(bin_offsets[n]) for n in shown])
    axes.set_xlim(-0.5, len(bin_offsets) - 0.5)
    axes.set_xlabel(xlabel)


def _percent(fraction: float) -> str:
    value = 100 * fraction
    return "0" if abs(value) < 0.05 else f"{value:+.0f}" if abs(value) >= 9.95 else f"{value:+.1f}"
