"""Sliders over the figures of `dfine_lib.viz`. Without a kernel each stays what it last showed: a picture.

Source of the controls: ipywidgets, which comes with `pip install -e ".[notebooks]"`.
"""

from __future__ import annotations

from dfine_lib.widgets.detections import score_threshold
from dfine_lib.widgets.distributions import edge_distributions, weighting_function
from dfine_lib.widgets.explorer import Explorer
from dfine_lib.widgets.gallery import distribution_gallery
from dfine_lib.widgets.localization import distillation_temperature, soft_label
from dfine_lib.widgets.matching import matching
from dfine_lib.widgets.sampling import sampling_points
from dfine_lib.widgets.training import RunWatch, watch_training

__all__ = [
    "Explorer",
    "RunWatch",
    "distillation_temperature",
    "distribution_gallery",
    "edge_distributions",
    "matching",
    "sampling_points",
    "score_threshold",
    "soft_label",
    "watch_training",
    "weighting_function",
]
