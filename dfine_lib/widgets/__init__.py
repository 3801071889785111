"""Sliders over the figures of `dfine_lib.viz`. Without a kernel each stays what it last showed: a picture.

Source of the controls: ipywidgets, which comes with `pip install -e ".[notebooks]"`.
"""

from __future__ import annotations

from dfine_lib.widgets.detections import score_threshold
from dfine_lib.widgets.distributions import edge_distributions, weighting_function
from dfine_lib.widgets.explorer import Explorer
from dfine_lib.widgets.localization import distillation_temperature, soft_label

__all__ = [
    "Explorer",
    "distillation_temperature",
    "edge_distributions",
    "score_threshold",
    "soft_label",
    "weighting_function",
]
