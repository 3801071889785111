"""How information is exchanged between the feature maps: position embedding, and which cells influence an output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from dfine_tools.figures.style import SECOND, Figure, as_array, new_figure, styled


@styled
def position_figure(table: Any, height: int, width: int, cell: tuple[int, int]) -> Figure:
    """The numbers of every token, and how alike one cell's are to those of all others.

    Args:
        table: `[height * width, D]`, tokens row by row.
        height, width: cells of the map.
        cell: row and column of the one that is compared.

    Raises:
        ValueError: the table has another number of tokens.
    """
    numbers = as_array(table)
    if len(numbers) != height * width:
        raise ValueError(f"a map of {height} by {width} cells has {height * width} tokens, the table {len(numbers)}")
    one = numbers[cell[0] * width + cell[1]]
    alike = (numbers @ one / (np.linalg.norm(numbers, axis=1) * np.linalg.norm(one))).reshape(height, width)
    figure = new_figure(
        10.5,
        3.9,
        f"Left: position embedding of {len(numbers)} tokens, {numbers.shape[1]} numbers each, waves of falling "
        f"frequency. Right: likeness to the cell in row {cell[0]}, column {cell[1]}: 1 there, at least "
        f"{alike.min():.2f} elsewhere.",
    )
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    drawn = left.imshow(numbers, cmap="gray", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    quarter = numbers.shape[1] / 4
    for i, name in enumerate(("sin of row", "cos of row", "sin of column", "cos of column")):
        left.text((i + 0.5) * quarter, -0.02 * len(numbers), name, ha="center", va="bottom", fontsize=9.5)
        if i:
            left.axvline(i * quarter - 0.5, color=SECOND, linewidth=1.5)
    left.set(xlabel="number of the embedding", ylabel="token, row by row")
    figure.colorbar(drawn, ax=left, ticks=[-1, 0, 1])
    shown = right.imshow(alike, cmap="gray", interpolation="nearest")
    right.add_patch(Rectangle((cell[1] - 0.5, cell[0] - 0.5), 1, 1, fill=False, edgecolor=SECOND, linewidth=2.5))
    right.set_title(f"likeness to row {cell[0]}, column {cell[1]}", loc="center", fontsize=10.5, fontweight="normal")
    right.set(xlabel="column", ylabel="row")
    figure.colorbar(shown, ax=right, label="cosine")
    for axes in (left, right):
        axes.grid(visible=False)
    return figure


@styled
def cell_influence(gradients: Mapping[str, Mapping[str, Any]]) -> Figure:
    """How strongly each cell of each input map influences one output cell, one row of maps a variant.

    Args:
        gradients: absolute gradient `[h, w]` by input map, by variant. White is none at all.

    Raises:
        ValueError: variants with different maps.
    """
    variants = {name: {k: as_array(v) for k, v in maps.items()} for name, maps in gradients.items()}
    names = list(next(iter(variants.values())))
    if any(list(maps) != names for maps in variants.values()):
        raise ValueError(f"every variant needs the maps {names}")
    words = "; ".join(
        f"{variant}: " + ", ".join(f"{k} {100 * (v > 0).mean():.0f} %" for k, v in maps.items())
        for variant, maps in variants.items()
    )
    figure = new_figure(
        3.1 * len(names),
        3.25 * len(variants),
        f"Fraction of the cells of each input map that change the output cell. {words}.",
    )
    rows = figure.subplots(len(variants), len(names), squeeze=False)
    most = max(float(v.max()) for maps in variants.values() for v in maps.values())
    for row, (variant, maps) in zip(rows, variants.items()):
        for axes, (name, strength) in zip(row, maps.items()):
            shown = np.where(strength > 0, np.log10(np.maximum(strength, 1e-30) / most), np.nan)
            drawn = axes.imshow(np.clip(shown, -6, 0), cmap="gray_r", vmin=-7, vmax=0, interpolation="nearest")
            axes.set_title(f"{name}: {100 * (strength > 0).mean():.0f} % of cells", loc="center", fontsize=10)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
        row[0].set_ylabel(variant, fontsize=11)
    bar = figure.colorbar(drawn, ax=rows, ticks=[-6, -3, 0], shrink=0.6, label="gradient, fraction of the largest")
    bar.ax.set_yticklabels(["$10^{-6}$ or less", "$10^{-3}$", "1"])
    return figure
