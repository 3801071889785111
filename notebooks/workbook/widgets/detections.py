"""How sure a detection must be to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbook import viz
from workbook.widgets.explorer import Explorer, slider


def score_threshold(
    images: Sequence[Any], detections: Sequence[Any], truths: Sequence[Any], names: Sequence[str], score: float = 0.4
) -> Explorer:
    """Detections beside the truth, from the score on that the slider says; arguments as in the figure of that name."""

    def draw(score: float) -> viz.Figure:
        return viz.detections_beside_truth(images, detections, truths, names, score)

    return Explorer(draw, score=slider(score, 0.05, 0.95, 0.05, "score at least"))
