"""Figures of the lessons, and those of `dfine_tools.figures`: pure functions that neither show nor store."""

from dfine_tools.figures.compare import ablation, published_beside_ours, runs_compared
from dfine_tools.figures.data_set import (
    anchors_in_objects,
    annotated_images,
    boxes_by_class,
    object_sizes,
    where_objects_lie,
)
from dfine_tools.figures.evaluation import confusion, detection_errors, errors_by_type, precision_recall_curves
from dfine_tools.figures.latency import accuracy_by_latency
from dfine_tools.figures.style import Figure
from dfine_tools.figures.training import per_class_ap, training_curves
from workbook.viz.average_precision import ap_by_threshold, matched_boxes, precision_recall
from workbook.viz.backbone import receptive_fields, strongest_channels
from workbook.viz.deployment import folded_kernels, operation_counts
from workbook.viz.detections import detections_beside_ground_truth
from workbook.viz.distributions import edge_distributions, weighting_function_figure
from workbook.viz.encoder import cell_influence, position_figure
from workbook.viz.gallery import distribution_gallery, first_and_last_layer, means_by_condition
from workbook.viz.live_run import live_run, loss_by_kind
from workbook.viz.localization import distribution_by_step, query_weights, soft_label, softened_distributions
from workbook.viz.matching import matched_queries, matching_costs
from workbook.viz.overfit import boxes_before_and_after, loss_terms, runs_side_by_side
from workbook.viz.overlaps import iou_by_side, overlap_by_shift, two_boxes
from workbook.viz.profile import cost_by_part, cost_by_step
from workbook.viz.queries import attention_mask, chosen_tokens, noised_boxes
from workbook.viz.refinement import iou_by_layer
from workbook.viz.samples import batch_sides, images_with_boxes, packed_arrays
from workbook.viz.sampling import bilinear_reading, heads_by_layer, sampling_points, starting_locations
from workbook.viz.schedules import averages_over_run, initial_weights_left, rate_schedules
from workbook.viz.scores import loss_and_gradient, scores_against_iou
from workbook.viz.uncertainty import correlations, coverage, std_by_blur
