"""The score that a detection needs to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbook import viz
from workbook.widgets.explorer import Explorer, slider


def score_threshold(
    images: Sequence[Any],
    detections: Sequence[Any],
    ground_truths: Sequence[Any],
    names: Sequence[str],
    score: float = 0.4,
) -> Explorer:
    """The figure `detections_beside_ground_truth`, with the score threshold that the slider says."""

    def draw(score: float) -> viz.Figure:
        return viz.detections_beside_ground_truth(images, detections, ground_truths, names, score)

    return Explorer(draw, score=slider(score, 0.05, 0.95, 0.05, "score at least"))
