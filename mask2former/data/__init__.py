"""Data sets, mappers and loaders. Importing this package registers the built-in data sets."""

import os

from .checks.coco_instances import check_coco_json
from .checks.coco_panoptic import check_panoptic_json
from .checks.report import Problem, Report
from .checks.semantic_folders import check_semantic_folders
from .datasets.builtin import register_builtin, register_synthetic, unregister_builtin
from .datasets.coco_instances import register_coco_json
from .datasets.coco_panoptic import register_coco_panoptic
from .datasets.semantic_folders import register_semantic_folders
from .errors import DatasetError
from .loader import ResumableSampler, SeededMapDataset, build_test_loader, build_train_loader
from .mapper import MAPPER_PRESETS, SegmentationMapper, build_mapper
from .own_data import InstanceData, PanopticData, SemanticData, register_own_data

register_builtin(os.getenv("DETECTRON2_DATASETS", "datasets"))

__all__ = [
    "MAPPER_PRESETS",
    "DatasetError",
    "InstanceData",
    "PanopticData",
    "Problem",
    "Report",
    "ResumableSampler",
    "SeededMapDataset",
    "SegmentationMapper",
    "SemanticData",
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "check_coco_json",
    "check_panoptic_json",
    "check_semantic_folders",
    "register_builtin",
    "register_coco_json",
    "register_coco_panoptic",
    "register_own_data",
    "register_semantic_folders",
    "register_synthetic",
    "unregister_builtin",
]
