"""Where queries come from: chosen tokens on the image, noised boxes, and the attention mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from dfine_lib.boxes import box_iou
from dfine_tools.figures.style import (
    INK,
    MAIN,
    MUTED,
    SECOND,
    Figure,
    as_array,
    as_rgb,
    draw_box,
    draw_ground_truth,
    new_figure,
    show_image,
    styled,
    without_lines,
)


@styled
def chosen_tokens(
    image: Any,
    scores_by_level: Sequence[Any],
    chosen: Sequence[int],
    ground_truths_xyxy: Any | None = None,
    title: str = "",
) -> Figure:
    """Every token's score as a veil over the image, level by level, with the tokens that became queries marked.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1.
        scores_by_level: `[h, w]` a level, 0..1, fine to coarse.
        chosen: token numbers, row by row through all levels.
        ground_truths_xyxy: `[G, 4]` pixels.
        title: above the image.

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
        faded = 1 - (0.25 + 0.55 * veil) * (1 - pixels)  # tokens of a low score fade; and 48 steps, which no eye misses
        show_image(axes, (48 * faded).round() / 48)
        first = end - level.size
        for token in numbers[(numbers >= first) & (numbers < end)] - first:
            row, column = divmod(int(token), columns)
            corner = (column * stride_x - 0.5, row * stride_y - 0.5)
            axes.add_patch(Rectangle(corner, stride_x, stride_y, fill=False, edgecolor="black", linewidth=1.2))
            axes.plot(corner[0] + stride_x / 2, corner[1] + stride_y / 2, ".", color="black", markersize=4)
        draw_ground_truth(axes, ground_truths_xyxy)
        axes.set_title(f"level {number}, {stride_x:.0f} px a cell: {count} chosen", fontsize=10.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, weight="bold")
    return figure


@styled
def noised_boxes(image: Any, ground_truth_xyxy: Any, positives_xyxy: Any, negatives_xyxy: Any) -> Figure:
    """One ground-truth box, what noise makes of it, and how much the noised boxes overlap it.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1.
        ground_truth_xyxy: `[4]` pixels.
        positives_xyxy, negatives_xyxy: `[K, 4]` pixels; the first few are drawn, all are counted.
    """
    box_xyxy = as_array(ground_truth_xyxy)
    kinds = {"positives": (as_array(positives_xyxy), MAIN), "negatives": (as_array(negatives_xyxy), SECOND)}
    overlaps = {
        name: box_iou(*map(torch.from_numpy, (boxes, box_xyxy[None])))[:, 0].numpy()
        for name, (boxes, _) in kinds.items()
    }
    words = ", ".join(f"{name} {values.mean():.2f}" for name, values in overlaps.items())
    figure = new_figure(10.5, 3.6, f"A ground-truth box and noised copies of it; mean IoU with it: {words}.")
    *panels, spread = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    side = (box_xyxy[2:] - box_xyxy[:2]).max()
    centre, (height, width) = (box_xyxy[:2] + box_xyxy[2:]) / 2, as_rgb(image).shape[:2]
    rules = ("less than half a side", "half to a whole side")
    for axes, (name, (boxes, colour)), rule in zip(panels, kinds.items(), rules):
        show_image(axes, image)
        for box in boxes[:4]:
            draw_box(axes, box, colour, width=1.5)
        draw_ground_truth(axes, box_xyxy, width=2.6)
        axes.set_xlim(max(centre[0] - 1.55 * side, -0.5), min(centre[0] + 1.55 * side, width - 0.5))
        axes.set_ylim(min(centre[1] + 1.55 * side, height - 0.5), max(centre[1] - 1.55 * side, -0.5))
        axes.set_title(f"{name}: corners move\n{rule}", fontsize=10.5)
    bins = np.linspace(0, 1, 26)
    for (name, values), hatch in zip(overlaps.items(), ("", "///")):
        spread.hist(
            values, bins=bins, color=kinds[name][1], alpha=0.75, hatch=hatch, edgecolor="white", linewidth=0.4,
            weights=np.full(len(values), 100 / len(values)), label=f"{name}, mean {values.mean():.2f}",
        )  # fmt: skip
    spread.set(title="overlap with the ground-truth box", xlabel="IoU", ylabel="fraction of the noised boxes, %")
    spread.legend()
    return figure


@styled
def attention_mask(mask: Any, blocks: Sequence[tuple[str, int]]) -> Figure:
    """The attention mask of self-attention, with names for blocks of queries.

    Args:
        mask: bool `[N, N]`, true where the query of the row attends to that of the column.
        blocks: name and number of queries of each block, in order; they sum to N.

    Raises:
        ValueError: the blocks do not fit the mask.
    """
    mask = as_array(mask)
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
    axes.set(xlabel="… to this query?", ylabel="does this query attend …", title="attention mask of the queries")
    without_lines(axes)
    handles = [Rectangle((0, 0), 1, 1, color=MAIN), Rectangle((0, 0), 1, 1, facecolor="#eceff3", edgecolor=MUTED)]
    axes.legend(handles, ["yes", "no"], loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
