"""From a model's outputs to detections in pixels, and from detections to the 12 COCO metrics."""

from dfine_lib.evaluate.coco_ap import CocoEvaluator, CocoMetrics, evaluate_model
from dfine_lib.evaluate.postprocess import Detections, postprocess

__all__ = ["CocoEvaluator", "CocoMetrics", "Detections", "evaluate_model", "postprocess"]
