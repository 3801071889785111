"""Who learns what: costs of all pairs with the chosen ones, and the matched queries from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from dfine_tools.figures.style import (
    INK,
    MAIN,
    MUTED,
    SECOND,
    Figure,
    as_array,
    draw_box,
    draw_ground_truth,
    new_figure,
    show_image,
    styled,
    without_lines,
)


@styled
def matching_costs(cost: Any, chosen: Mapping[str, Sequence[int]], box_names: Sequence[str]) -> Figure:
    """The same costs once for every way to choose, with the chosen pairs framed and their sum.

    Args:
        cost: `[M, Q]`, boxes by queries.
        chosen: by the name of the way, the query of every box.
        box_names: M names.

    Raises:
        ValueError: a way that does not choose one query a box.
    """
    values = as_array(cost)
    for name, queries in chosen.items():
        if len(queries) != len(values) or len(set(queries)) != len(queries):
            raise ValueError(f"{name} must choose {len(values)} different queries, got {list(queries)}")
    totals = {name: sum(values[m, q] for m, q in enumerate(queries)) for name, queries in chosen.items()}
    words = "; ".join(
        f"{name} gives the boxes queries {list(map(int, queries))}, sum {totals[name]:.2f}"
        for name, queries in chosen.items()
    )
    rows, columns = values.shape
    figure = new_figure(
        5.4 * len(chosen), 1.0 + 0.6 * rows, f"Matching costs of {rows} boxes and {columns} queries: {words}."
    )
    for axes, (name, queries) in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen.items(), strict=True):
        sns.heatmap(
            values, ax=axes, annot=True, fmt=".2f", cmap="crest", cbar=False, linewidths=2,
            annot_kws={"size": 10.5}, xticklabels=[f"query {q}" for q in range(columns)], yticklabels=list(box_names),
        )  # fmt: skip
        for row, query in enumerate(queries):
            axes.add_patch(
                Rectangle((query + 0.04, row + 0.05), 0.92, 0.9, fill=False, edgecolor=SECOND, linewidth=3.5)
            )
        axes.set_title(f"{name}: sum {totals[name]:.2f}")
        axes.tick_params(length=0)
        axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    return figure


@styled
def matched_queries(
    image: Any,
    ground_truths_xyxy: Any,
    names: Sequence[str],
    boxes_by_layer_xyxy: Any,
    queries_by_layer: Any,
    layer_names: Sequence[str],
    layer: int,
    kept: Sequence[Sequence[int]] | None = None,
) -> Figure:
    """Every object with the box of the query that learns it in one layer; beside it, the queries of all layers.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, in the pixels of the boxes.
        ground_truths_xyxy: `[M, 4]` pixels.
        names: of the M objects.
        boxes_by_layer_xyxy: `[K, M, 4]`, in each layer the box of the query matched to each object, pixels.
        queries_by_layer: `[K, M]`, the numbers of those queries.
        layer_names: K names.
        layer: which layer's boxes are drawn, 0..K-1.
        kept: for each object, the queries that it keeps in the union set; a column of the table.

    Raises:
        ValueError: there is no such layer.
    """
    boxes, queries = as_array(boxes_by_layer_xyxy), as_array(queries_by_layer).astype(int)
    if not 0 <= layer < len(queries):
        raise ValueError(f"layer must be 0 to {len(queries) - 1}, got {layer}")
    rows = "; ".join(f"{name}: {', '.join(map(str, queries[:, m]))}" for m, name in enumerate(names))
    figure = new_figure(
        11, 4.2, f"Queries matched to each object by {', '.join(layer_names)} ({layer_names[layer]} is drawn). {rows}."
    )
    where, table = figure.subplots(1, 2, width_ratios=(1, 1.65))
    show_image(where, image)
    where.set_title(f"{layer_names[layer]}: matched boxes")
    draw_ground_truth(where, ground_truths_xyxy)
    for m in range(len(names)):
        changed = queries[layer, m] != queries[-1, m]
        draw_box(where, boxes[layer, m], SECOND if changed else MAIN, dashes=(0, (5, 2)) if changed else "-")
        where.text(
            *(boxes[layer, m, :2] + boxes[layer, m, 2:]) / 2, str(queries[layer, m]), fontsize=9, color="white",
            ha="center", va="center", clip_on=True,
            bbox=dict(boxstyle="round,pad=0.2", facecolor=INK, edgecolor="none", alpha=0.8),
        )  # fmt: skip
    _query_table(table, names, queries, layer_names, layer, kept)
    return figure


def _query_table(
    axes: Axes,
    names: Sequence[str],
    queries: np.ndarray,
    layer_names: Sequence[str],
    layer: int,
    kept: Sequence[Sequence[int]] | None,
) -> None:
    """Objects by layers; cells that differ from the last layer are shaded and their numbers underlined by a frame."""
    columns = [*layer_names, *(["union set"] if kept is not None else [])]
    for m in range(len(names)):
        for k in range(len(queries)):
            changed = queries[k, m] != queries[-1, m]
            axes.add_patch(
                Rectangle(
                    (k + 0.06, m + 0.1), 0.88, 0.8, facecolor="#fbe8cc" if changed else "#eef2f6",
                    edgecolor=SECOND if changed else "none", linewidth=1.4,
                )
            )  # fmt: skip
            axes.text(
                k + 0.5, m + 0.5, str(queries[k, m]), ha="center", va="center", weight="bold" if changed else None
            )
        if kept is not None:
            axes.text(len(queries) + 0.5, m + 0.5, ", ".join(map(str, kept[m])), ha="center", va="center", fontsize=10)
    axes.add_patch(Rectangle((layer + 0.01, 0.01), 0.98, len(names) - 0.02, fill=False, edgecolor=INK, linewidth=1.6))
    if kept is not None:
        axes.axvline(len(queries), color=MUTED, linewidth=0.8)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(names), 0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    axes.xaxis.tick_top()
    without_lines(axes)
    axes.set_title("number of the query that learns each object", pad=10)
