"""Figures: the only room that draws. Pure functions from arrays to pictures; nothing is shown, nothing is stored."""

from dfine_lib.viz.deployment import folded_kernels, operation_counts
from dfine_lib.viz.distributions import edge_distributions, weighting_function_figure
from dfine_lib.viz.localization import distribution_by_step, query_weights, soft_label, softened_distributions
from dfine_lib.viz.pictures import box_refinement, detections_beside_truth
from dfine_lib.viz.refinement import iou_by_layer
from dfine_lib.viz.style import Picture
from dfine_lib.viz.training import per_class_ap, training_curves

__all__ = [
    "Picture",
    "box_refinement",
    "detections_beside_truth",
    "distribution_by_step",
    "edge_distributions",
    "folded_kernels",
    "iou_by_layer",
    "operation_counts",
    "per_class_ap",
    "query_weights",
    "soft_label",
    "softened_distributions",
    "training_curves",
    "weighting_function_figure",
]
