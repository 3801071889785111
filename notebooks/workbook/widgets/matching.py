"""Matched queries from layer to layer, under one's hands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbook import viz
from workbook.widgets.explorer import Explorer, slider


def matching(
    image: Any,
    ground_truths_xyxy: Any,
    names: Sequence[str],
    boxes_by_layer_xyxy: Any,
    queries_by_layer: Any,
    layer_names: Sequence[str],
    kept: Sequence[Sequence[int]] | None = None,
    *,
    layer: int = 0,
) -> Explorer:
    """The objects of an image and the queries that learn them, in the layer that the slider says.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, in the pixels of the boxes.
        ground_truths_xyxy: `[M, 4]` pixels.
        names: of the M objects.
        boxes_by_layer_xyxy: `[K, M, 4]`, boxes of the matched queries, pixels.
        queries_by_layer: `[K, M]`, their numbers.
        layer_names: K names.
        kept: for each object, its queries in the union set.
        layer: where the slider starts, 0..K-1.

    Raises:
        ValueError: there is no such layer.
    """

    def draw(layer: int) -> viz.Figure:
        return viz.matched_queries(
            image, ground_truths_xyxy, names, boxes_by_layer_xyxy, queries_by_layer, layer_names, layer, kept
        )

    return Explorer(draw, layer=slider(layer, 0, len(layer_names) - 1, 1, "output"))
