"""Objects of several conditions to leaf through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dfine_lib.evaluate.refinement import FoundObject
from workbook import viz
from workbook.widgets.explorer import Explorer, choice, slider


def distribution_gallery(
    images: Any, found: Mapping[str, Sequence[FoundObject]], position: float = 0.8, condition: str = ""
) -> Explorer:
    """The distributions of one object, chosen by its condition and by its position in the order.

    Args:
        images: by their number, as `FoundObject.image` counts them.
        found: for each condition its objects in order, such as the hardest last.
        position: where the slider starts: 0 is the first object, 1 the last.
        condition: where the choice starts; the first where nothing is said.

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
