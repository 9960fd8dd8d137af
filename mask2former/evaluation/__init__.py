"""Evaluators for every data set type that the project supports."""

from .build import build_evaluator
from .coco import COCOInstanceEvaluator, instances_to_coco_results, summarize_coco

__all__ = [
    "COCOInstanceEvaluator",
    "build_evaluator",
    "instances_to_coco_results",
    "summarize_coco",
]
