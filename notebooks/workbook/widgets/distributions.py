"""Edge distributions under one's hands: the bins' offsets, and one object's box from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfine_lib.evaluate.refinement import Refinement
from dfine_lib.model.distribution import weighting_function as library_offsets
from workbook import viz
from workbook.widgets.explorer import Explorer, choice, slider


def weighting_function(up: float = 0.5, reg_scale: float = 4.0, reg_max: int = 32) -> Explorer:
    """W(n) for every `up` (the paper's a) and `reg_scale` (1 / c), beside the published one."""

    def draw(up: float, reg_scale: float) -> viz.Figure:
        published = library_offsets(reg_max)
        chosen = library_offsets(reg_max, up, reg_scale)
        return viz.weighting_function_figure({"published: a = 0.5, 1/c = 4": published, "yours": chosen})

    return Explorer(
        draw,
        up=slider(up, 0.1, 1.0, 0.05, "up (a)"),
        reg_scale=slider(reg_scale, 1.0, 16.0, 0.5, "reg_scale (1/c)"),
    )


def edge_distributions(
    image: Any,
    refinements: Mapping[str, Refinement],
    ground_truths_xyxy: Mapping[str, Any] | None = None,
    *,
    layer: int | None = None,
) -> Explorer:
    """One object's four edge distributions and its box, after as many decoder layers as the slider says.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1, in the pixels of the boxes.
        refinements: objects to choose from, by what they are called (`refinement_of` makes them).
        ground_truths_xyxy: ground truth boxes by the same names, `[4]` pixels.
        layer: where the slider starts; the last layer where nothing is said.

    Raises:
        ValueError: no object to choose from.
    """
    if not refinements:
        raise ValueError("there is no object to show; lower the score that detections need")
    layers = max(len(steps.corner_logits_by_layer) for steps in refinements.values())

    def draw(name: str, layer: int) -> viz.Figure:
        steps = refinements[name]
        layer = min(layer, len(steps.corner_logits_by_layer))
        return viz.edge_distributions(
            image,
            steps.corner_logits_by_layer[:layer],
            steps.boxes_by_layer_xyxy[: layer + 1],
            steps.bin_offsets,
            (ground_truths_xyxy or {}).get(name),
            f"{name}, after layer {layer} of {len(steps.corner_logits_by_layer)}",
        )

    return Explorer(
        draw, name=choice(list(refinements), "object"), layer=slider(layer or layers, 1, layers, 1, "decoder layers")
    )
