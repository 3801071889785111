"""Sliders over the figures of `workbook.viz`. Without a kernel each stays what it last showed: a figure.

Source of the controls: ipywidgets, which comes with `pip install -e ".[notebooks]"`.
"""

from __future__ import annotations

from workbook.widgets.detections import score_threshold
from workbook.widgets.distributions import edge_distributions, weighting_function
from workbook.widgets.explorer import Explorer
from workbook.widgets.gallery import distribution_gallery
from workbook.widgets.localization import distillation_temperature, soft_label
from workbook.widgets.matching import matching
from workbook.widgets.sampling import sampling_points
from workbook.widgets.training import RunWatch, watch_training
