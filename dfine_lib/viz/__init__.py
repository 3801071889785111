"""Figures: the only room that draws. Pure functions from arrays to pictures; nothing is shown, nothing is stored."""

from dfine_lib.viz.average_precision import ap_by_threshold, judged_boxes, precision_recall
from dfine_lib.viz.backbone import receptive_fields, strongest_channels
from dfine_lib.viz.compare import ablation, published_beside_ours, runs_compared
from dfine_lib.viz.data_set import (
    anchors_in_objects,
    annotated_pictures,
    boxes_by_class,
    object_sizes,
    where_objects_lie,
)
from dfine_lib.viz.deployment import folded_kernels, operation_counts
from dfine_lib.viz.distributions import edge_distributions, weighting_function_figure
from dfine_lib.viz.encoder import cell_influence, position_figure
from dfine_lib.viz.evaluation import confusion, errors_by_kind, mistakes, precision_by_recall
from dfine_lib.viz.gallery import distribution_gallery, first_and_last_layer, means_by_condition
from dfine_lib.viz.latency import accuracy_by_latency
from dfine_lib.viz.live_run import live_run, loss_by_kind
from dfine_lib.viz.localization import distribution_by_step, query_weights, soft_label, softened_distributions
from dfine_lib.viz.matching import matched_queries, matching_costs
from dfine_lib.viz.overfit import boxes_before_and_after, loss_terms, runs_side_by_side
from dfine_lib.viz.overlaps import iou_by_side, overlap_by_shift, two_boxes
from dfine_lib.viz.pictures import box_refinement, detections_beside_truth
from dfine_lib.viz.profile import cost_by_part, shares_by_step
from dfine_lib.viz.queries import attention_mask, chosen_tokens, noised_boxes
from dfine_lib.viz.refinement import iou_by_layer
from dfine_lib.viz.samples import batch_sides, images_with_boxes, packed_arrays
from dfine_lib.viz.sampling import bilinear_reading, heads_by_layer, sampling_points, starting_places
from dfine_lib.viz.schedules import averages_over_run, initial_share, rate_schedules
from dfine_lib.viz.scores import loss_and_gradient, scores_against_iou
from dfine_lib.viz.style import Picture
from dfine_lib.viz.training import per_class_ap, training_curves
from dfine_lib.viz.uncertainty import correlations, coverage, spread_by_blur

__all__ = [
    "Picture",
    "ablation",
    "accuracy_by_latency",
    "anchors_in_objects",
    "annotated_pictures",
    "ap_by_threshold",
    "attention_mask",
    "averages_over_run",
    "batch_sides",
    "bilinear_reading",
    "box_refinement",
    "boxes_before_and_after",
    "boxes_by_class",
    "cell_influence",
    "chosen_tokens",
    "confusion",
    "correlations",
    "cost_by_part",
    "coverage",
    "detections_beside_truth",
    "distribution_by_step",
    "distribution_gallery",
    "edge_distributions",
    "errors_by_kind",
    "first_and_last_layer",
    "folded_kernels",
    "heads_by_layer",
    "images_with_boxes",
    "initial_share",
    "iou_by_layer",
    "iou_by_side",
    "judged_boxes",
    "live_run",
    "loss_and_gradient",
    "loss_by_kind",
    "loss_terms",
    "matched_queries",
    "matching_costs",
    "means_by_condition",
    "mistakes",
    "noised_boxes",
    "object_sizes",
    "operation_counts",
    "overlap_by_shift",
    "packed_arrays",
    "per_class_ap",
    "position_figure",
    "precision_by_recall",
    "precision_recall",
    "published_beside_ours",
    "query_weights",
    "rate_schedules",
    "receptive_fields",
    "runs_compared",
    "runs_side_by_side",
    "sampling_points",
    "scores_against_iou",
    "shares_by_step",
    "soft_label",
    "softened_distributions",
    "spread_by_blur",
    "starting_places",
    "strongest_channels",
    "training_curves",
    "two_boxes",
    "weighting_function_figure",
    "where_objects_lie",
]
