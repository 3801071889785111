"""Where queries come from: chosen tokens on the image, noised boxes, and who may look at whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from dfine_tools.figures.style import (
    INK,
    MAIN,
    MUTED,
    SECOND,
    TRUTH,
    Figure,
    as_array,
    as_rgb,
    draw_box,
    new_figure,
    show_image,
    styled,
)


@styled
def chosen_tokens(
    image: Any, scores_by_level: Sequence[Any], chosen: Sequence[int], truths_xyxy: Any | None = None, title: str = ""
) -> Figure:
    """Every token's score as a veil over the image, level by level, with the tokens that became queries marked.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1.
        scores_by_level: `[h, w]` a level, 0..1, fine to coarse.
        chosen: token numbers, row by row through all levels.
        truths_xyxy: `[G, 4]` pixels.
        title: above the picture.

    Raises:
        ValueError: a number that is no token's.
    """
    scores = [as_array(level) for level in scores_by_level]
    ends = np.cumsum([level.size for level in scores])
    numbers = np.asarray(chosen, dtype=int)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < ends[-1]):
        raise ValueError(f"token numbers are 0 to {ends[-1] - 1}, got {numbers.min()} to {numbers.max()}")
    pixels = as_rgb(image)
    pixels = pixels / (255 if pixels.dtype == np.uint8 else 1)
    height, width = pixels.shape[:2]
    counts = [int(((numbers >= end - level.size) & (numbers < end)).sum()) for level, end in zip(scores, ends)]
    words = ", ".join(f"{n} of {level.size} on level {i}" for i, (n, level) in enumerate(zip(counts, scores), start=1))
    figure = new_figure(10, 3.7, f"{len(numbers)} tokens chosen as queries: {words}.")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for number, (axes, level, end, count) in enumerate(zip(panels, scores, ends, counts), start=1):
        rows, columns = level.shape
        stride_y, stride_x = height / rows, width / columns
        veil = np.kron(np.clip(level, 0, 1), np.ones((-(-height // rows), -(-width // columns))))[:height, :width, None]
        faded = 1 - (0.25 + 0.55 * veil) * (1 - pixels)  # unsure tokens fade; and 48 steps, which no eye misses
        show_image(axes, (48 * faded).round() / 48)
        first = end - level.size
        for token in numbers[(numbers >= first) & (numbers < end)] - first:
            row, column = divmod(int(token), columns)
            corner = (column * stride_x - 0.5, row * stride_y - 0.5)
            axes.add_patch(Rectangle(corner, stride_x, stride_y, fill=False, edgecolor="black", linewidth=1.2))
            axes.plot(corner[0] + stride_x / 2, corner[1] + stride_y / 2, ".", color="black", markersize=4)
        for box in () if truths_xyxy is None else as_array(truths_xyxy).reshape(-1, 4):
            draw_box(axes, box, TRUTH, dashes=(0, (1, 1.2)), width=2.2)
        axes.set_title(f"level {number}, {stride_x:.0f} px a cell: {count} chosen", fontsize=10.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, weight="bold")
    return figure


@styled
def noised_boxes(image: Any, truth_xyxy: Any, positives_xyxy: Any, negatives_xyxy: Any) -> Figure:
    """One true box, what noise makes of it, and how much the noised boxes overlap it.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1.
        truth_xyxy: `[4]` pixels.
        positives_xyxy, negatives_xyxy: `[K, 4]` pixels; the first few are drawn, all are counted.
    """
    truth = as_array(truth_xyxy)
    kinds = {"positives": (as_array(positives_xyxy), MAIN), "negatives": (as_array(negatives_xyxy), SECOND)}
    overlaps = {name: _overlap(boxes, truth) for name, (boxes, _) in kinds.items()}
    words = ", ".join(f"{name} {values.mean():.2f}" for name, values in overlaps.items())
    figure = new_figure(10.5, 3.6, f"A true box and noised copies of it; mean IoU with it: {words}.")
    *pictures, spread = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    side = max(truth[2] - truth[0], truth[3] - truth[1])
    centre, (height, width) = (truth[:2] + truth[2:]) / 2, as_rgb(image).shape[:2]
    rules = ("less than half a side", "half to a whole side")
    for axes, (name, (boxes, colour)), rule in zip(pictures, kinds.items(), rules):
        show_image(axes, image)
        for box in boxes[:4]:
            draw_box(axes, box, colour, width=1.5)
        draw_box(axes, truth, TRUTH, dashes=(0, (1, 1.2)), width=2.6)
        axes.set_xlim(max(centre[0] - 1.55 * side, -0.5), min(centre[0] + 1.55 * side, width - 0.5))
        axes.set_ylim(min(centre[1] + 1.55 * side, height - 0.5), max(centre[1] - 1.55 * side, -0.5))
        axes.set_title(f"{name}: corners move\n{rule}", fontsize=10.5)
    bins = np.linspace(0, 1, 26)
    for (name, values), hatch in zip(overlaps.items(), ("", "///")):
        spread.hist(
            values, bins=bins, color=kinds[name][1], alpha=0.75, hatch=hatch, edgecolor="white", linewidth=0.4,
            weights=np.full(len(values), 100 / len(values)), label=f"{name}, mean {values.mean():.2f}",
        )  # fmt: skip
    spread.set(title="overlap with the true box", xlabel="IoU", ylabel="share of the noised boxes, %")
    spread.legend()
    return figure


@styled
def attention_mask(may_attend: Any, blocks: Sequence[tuple[str, int]]) -> Figure:
    """Who may look at whom in self-attention, with names for blocks of queries.

    Args:
        may_attend: bool `[N, N]`, true where a row may see a column.
        blocks: name and number of queries of each block, in order; they sum to N.

    Raises:
        ValueError: the blocks do not fit the mask.
    """
    mask = as_array(may_attend)
    total = sum(count for _, count in blocks)
    if mask.shape != (total, total):
        raise ValueError(f"blocks of {total} queries do not fit a mask of {list(mask.shape)}")
    starts = np.cumsum([0, *(count for _, count in blocks)])
    spans = [(name, slice(a, b)) for (name, _), a, b in zip(blocks, starts, starts[1:])]
    seen = [f"{name} sees {', '.join(n for n, columns in spans if mask[rows, columns].any())}" for name, rows in spans]
    figure = new_figure(7.6, 5.2, f"Attention mask of {total} queries. {'; '.join(seen)}.")
    axes = figure.subplots()
    axes.imshow(mask, cmap=ListedColormap(["#eceff3", MAIN]), vmin=0, vmax=1, interpolation="nearest")
    for edge in np.arange(total + 1) - 0.5:
        axes.axhline(edge, color="white", linewidth=0.6)
        axes.axvline(edge, color="white", linewidth=0.6)
    for edge in starts[1:-1] - 0.5:
        axes.axhline(edge, color=INK, linewidth=1.3)
        axes.axvline(edge, color=INK, linewidth=1.3)
    middles, names = (starts[:-1] + starts[1:] - 1) / 2, [name.replace(" ", "\n", 1) for name, _ in blocks]
    axes.set_xticks(middles, names, fontsize=9)
    axes.set_yticks(middles, names, fontsize=9)
    axes.tick_params(length=0)
    axes.set(xlabel="… at this query?", ylabel="may this query look …", title="self-attention among the queries")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    handles = [Rectangle((0, 0), 1, 1, color=MAIN), Rectangle((0, 0), 1, 1, facecolor="#eceff3", edgecolor=MUTED)]
    axes.legend(handles, ["yes", "no"], loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _overlap(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of xyxy boxes `[K, 4]` with one."""
    low, high = np.maximum(boxes[:, :2], truth[:2]), np.minimum(boxes[:, 2:], truth[2:])
    common = np.clip(high - low, 0, None).prod(1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, truth)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)
