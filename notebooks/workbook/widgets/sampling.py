"""Sampling locations under one's hands: which object, which decoder layer, which head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.evaluate.refinement import FoundObject
from workbook import viz
from workbook.sampling import LayerSampling
from workbook.widgets.explorer import Explorer, choice, slider


def sampling_points(
    images: Any,
    layers: Sequence[LayerSampling],
    objects: Mapping[str, FoundObject],
    *,
    layer: int | None = None,
    strides: Sequence[int] | None = None,
) -> Explorer:
    """Where the query of a found object looks, in any decoder layer, with all heads or one.

    Args:
        images: `[B, 3, H, W]`, those that `layers` were sampled from.
        layers: of `sampling_of`, one a decoder layer.
        objects: objects to choose from, by what they are called (`found_objects` finds them).
        layer: where the slider starts, from 1; the last layer where nothing is said.
        strides: pixels a cell on each level; the cells are then drawn.

    Raises:
        ValueError: no object to choose from.
    """
    if not objects:
        raise ValueError("there is no object to show; lower the score that detections need")
    heads = layers[0].weights.shape[2]

    def draw(name: str, layer: int, head: int) -> viz.Figure:
        one, sampling = objects[name], layers[layer - 1]
        at = (one.image, one.query)
        height, width = images.shape[-2:]
        box_xyxy = box_cxcywh_to_xyxy(sampling.boxes_cxcywh[at]) * torch.tensor([width, height] * 2)
        return viz.sampling_points(
            images[one.image],
            sampling.locations[at],
            sampling.weights[at],
            sampling.points_per_level,
            box_xyxy,
            one.truth_xyxy,
            head=None if head < 0 else head,
            strides=strides,
            title=f"{name}, decoder layer {layer} of {len(layers)}",
        )

    return Explorer(
        draw,
        name=choice(list(objects), "object"),
        layer=slider(layer or len(layers), 1, len(layers), 1, "decoder layer"),
        head=choice([("all", -1), *((f"{n}", n) for n in range(heads))], "head", value=-1),
    )
