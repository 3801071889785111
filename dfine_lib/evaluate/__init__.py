"""From network outputs to boxes in pixels, and from those to COCO numbers and a report."""

from dfine_lib.evaluate.coco_ap import CocoEvaluator, CocoMetrics, evaluate_model
from dfine_lib.evaluate.postprocess import Detections, postprocess

__all__ = ["CocoEvaluator", "CocoMetrics", "Detections", "evaluate_model", "postprocess"]
