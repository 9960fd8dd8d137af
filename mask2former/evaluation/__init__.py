"""Evaluators for every data set type that the project supports."""

from .average_precision import summarize_coco
from .build import build_evaluator, check_evaluation
from .calibration import Calibration
from .coco import COCOInstanceEvaluator, instances_to_coco_results
from .instance_analysis import ErrorKind, InstanceAnalysis
from .panoptic import PanopticEvaluator
from .panoptic_analysis import PanopticAnalysis
from .panoptic_quality import Counts
from .semantic import SemanticAnalysis, SemanticEvaluator
from .thresholds import ClassMatches, Threshold, choose_threshold

__all__ = [
    "COCOInstanceEvaluator",
    "Calibration",
    "ClassMatches",
    "Counts",
    "ErrorKind",
    "InstanceAnalysis",
    "PanopticAnalysis",
    "PanopticEvaluator",
    "SemanticAnalysis",
    "SemanticEvaluator",
    "Threshold",
    "build_evaluator",
    "check_evaluation",
    "choose_threshold",
    "instances_to_coco_results",
    "summarize_coco",
]
