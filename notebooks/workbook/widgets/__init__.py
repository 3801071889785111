"""Sliders over the figures of `workbook.viz`. Without a kernel each stays what it last showed: a figure.

Source of the controls: ipywidgets, which comes with `pip install -e ".[notebooks]"`.
"""

from __future__ import annotations

from workbook.widgets.explorer import Explorer
from workbook.widgets.sliders import (
    distillation_temperature,
    distribution_gallery,
    edge_distributions,
    matching,
    sampling_points,
    score_threshold,
    soft_label,
    weighting_function,
)
from workbook.widgets.training import RunWatch, watch_training
