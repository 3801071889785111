"""Soft labels and temperatures under one's hands."""

from __future__ import annotations

from typing import Any

from workbook import viz
from workbook.widgets.explorer import Explorer, slider


def soft_label(bin_offsets: Any, offset: float = 0.06) -> Explorer:
    """The two bins between which a true edge is interpolated, wherever the slider puts it; W in sides."""

    def draw(offset: float) -> viz.Figure:
        return viz.soft_label(bin_offsets, offset)

    return Explorer(draw, offset=slider(offset, -0.6, 0.6, 0.005, "true edge, of the side"))


def distillation_temperature(
    bin_offsets: Any, teacher_logits: Any, student_logits: Any, temperature: float = 5.0
) -> Explorer:
    """Teacher and student of one edge, `[N + 1]` each, softened by the temperature that the slider says."""

    def draw(temperature: float) -> viz.Figure:
        return viz.softened_distributions(bin_offsets, teacher_logits, student_logits, temperature)

    return Explorer(draw, temperature=slider(temperature, 1.0, 20.0, 0.5, "temperature T"))
