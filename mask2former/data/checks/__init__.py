"""Checks of a user's data before training, which list all mistakes in one report."""

from .coco_instances import check_coco_json
from .coco_panoptic import check_panoptic_json
from .report import Problem, Report
from .semantic_folders import check_semantic_folders

__all__ = [
    "Problem",
    "Report",
    "check_coco_json",
    "check_panoptic_json",
    "check_semantic_folders",
]
