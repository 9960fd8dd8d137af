"""Evaluators for every data set type that the project supports."""

from .average_precision import summarize_coco
from .build import build_evaluator
from .coco import COCOInstanceEvaluator, instances_to_coco_results
from .panoptic import PanopticEvaluator
from .semantic import SemanticEvaluator

__all__ = [
    "COCOInstanceEvaluator",
    "PanopticEvaluator",
    "SemanticEvaluator",
    "build_evaluator",
    "instances_to_coco_results",
    "summarize_coco",
]
