"""Sliders over figures: each function takes the figure's arguments but those that its controls set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.model import distribution
from dfine_tools.analysis.refinement import FoundObject, Refinement
from workbook import viz
from workbook.sampling import LayerSampling
from workbook.widgets.explorer import Explorer, choice, slider

NO_OBJECT = "there is no object to show; lower the score that detections need"


def score_threshold(images: Any, detections: Any, ground_truths: Any, names: Any, score: float = 0.4) -> Explorer:
    """`viz.detections_beside_ground_truth`, with a slider for the score threshold."""

    def draw(score: float) -> viz.Figure:
        return viz.detections_beside_ground_truth(images, detections, ground_truths, names, score)

    return Explorer(draw, score=slider(score, 0.05, 0.95, 0.05, "score at least"))


def weighting_function(up: float = 0.5, reg_scale: float = 4.0, reg_max: int = 32) -> Explorer:
    """W(n) for every `up` (the paper's a) and `reg_scale` (1 / c), beside the published one."""
    published = distribution.weighting_function(reg_max)

    def draw(up: float, reg_scale: float) -> viz.Figure:
        chosen = distribution.weighting_function(reg_max, up, reg_scale)
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
    """`viz.edge_distributions` of one object, after as many decoder layers as the slider says.

    Args:
        image: in the pixels of the boxes.
        refinements: objects to choose from, by what they are called (`refinement_of` makes them).
        ground_truths_xyxy: ground-truth boxes by the same names, `[4]` pixels.
        layer: where the slider starts; by default the last layer.

    Raises:
        ValueError: no object to choose from.
    """
    if not refinements:
        raise ValueError(NO_OBJECT)
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


def distribution_gallery(
    images: Any, found: Mapping[str, Sequence[FoundObject]], position: float = 0.8, condition: str = ""
) -> Explorer:
    """`viz.first_and_last_layer` of one object, chosen by its condition and by its position in the order.

    Args:
        images: by their number, as `FoundObject.image` counts them.
        found: for each condition its objects in order, such as the hardest last.
        position: where the slider starts: 0 is the first object, 1 the last.
        condition: where the choice starts; by default the first.

    Raises:
        ValueError: a condition without objects, or none.
    """
    if not found or not all(len(objects) for objects in found.values()):
        raise ValueError("every condition needs an object to show")

    def draw(condition: str, position: float) -> viz.Figure:
        objects = found[condition]
        one = objects[round(position * (len(objects) - 1))]
        title = f"{condition}, image {one.image}\nscore {one.score:.2f}"
        return viz.first_and_last_layer(images[one.image], one.steps, one.ground_truth_xyxy, title)

    return Explorer(
        draw,
        condition=choice(list(found), "condition", condition or None),
        position=slider(position, 0.0, 1.0, 0.05, "position in the order"),
    )


def soft_label(bin_offsets: Any, offset: float = 0.06) -> Explorer:
    """`viz.soft_label`, with a slider for the true edge."""

    def draw(offset: float) -> viz.Figure:
        return viz.soft_label(bin_offsets, offset)

    return Explorer(draw, offset=slider(offset, -0.6, 0.6, 0.005, "true edge, of the side"))


def distillation_temperature(
    bin_offsets: Any, teacher_logits: Any, student_logits: Any, temperature: float = 5.0
) -> Explorer:
    """`viz.softened_distributions`, with a slider for the temperature."""

    def draw(temperature: float) -> viz.Figure:
        return viz.softened_distributions(bin_offsets, teacher_logits, student_logits, temperature)

    return Explorer(draw, temperature=slider(temperature, 1.0, 20.0, 0.5, "temperature T"))


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
    """`viz.matched_queries`, with a slider for the layer, which starts at `layer`."""

    def draw(layer: int) -> viz.Figure:
        return viz.matched_queries(
            image, ground_truths_xyxy, names, boxes_by_layer_xyxy, queries_by_layer, layer_names, layer, kept
        )

    return Explorer(draw, layer=slider(layer, 0, len(layer_names) - 1, 1, "output"))


def sampling_points(
    images: Any,
    layers: Sequence[LayerSampling],
    objects: Mapping[str, FoundObject],
    *,
    layer: int | None = None,
    strides: Sequence[int] | None = None,
) -> Explorer:
    """`viz.sampling_points` of the query of a found object, in any decoder layer, with all heads or one.

    Args:
        images: `[B, 3, H, W]`, those that `layers` were sampled from.
        layers: of `sampling_of`, one a decoder layer.
        objects: objects to choose from, by what they are called (`found_objects` finds them).
        layer: where the slider starts, from 1; by default the last layer.
        strides: pixels a cell on each level; the cells are then drawn.

    Raises:
        ValueError: no object to choose from.
    """
    if not objects:
        raise ValueError(NO_OBJECT)
    heads = layers[0].weights.shape[2]

    def draw(name: str, layer: int, head: int) -> viz.Figure:
        one, sampling = objects[name], layers[layer - 1]
        at = (one.image, one.query)
        height, width = images.shape[-2:]
        return viz.sampling_points(
            images[one.image],
            sampling.locations[at],
            sampling.weights[at],
            sampling.points_per_level,
            box_cxcywh_to_xyxy(sampling.boxes_cxcywh[at]) * torch.tensor([width, height] * 2),
            one.ground_truth_xyxy,
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
