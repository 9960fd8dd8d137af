"""Evaluators for every data set type that the project supports."""

from .average_precision import summarize_coco
from .build import build_evaluator, check_evaluation
from .coco import COCOInstanceEvaluator, instances_to_coco_results
from .panoptic import PanopticEvaluator
from .semantic import SemanticEvaluator

__all__ = [
    "COCOInstanceEvaluator",
    "PanopticEvaluator",
    "SemanticEvaluator",
    "build_evaluator",
    "check_evaluation",
    "instances_to_coco_results",
    "summarize_coco",
]
