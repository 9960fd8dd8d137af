"""Data sets, mappers and loaders. Importing this package registers the built-in data sets."""

import os

from .builtin import register_builtin, register_synthetic, unregister_builtin
from .coco_json import check_coco_json, register_coco_json, register_custom_datasets
from .errors import DatasetError
from .loader import ResumableSampler, SeededMapDataset, build_test_loader, build_train_loader
from .mapper import MAPPER_PRESETS, SegmentationMapper, build_mapper
from .panoptic_json import register_coco_panoptic
from .report import Problem, Report
from .semantic_folders import register_semantic_folders

register_builtin(os.getenv("DETECTRON2_DATASETS", "datasets"))

__all__ = [
    "MAPPER_PRESETS",
    "DatasetError",
    "Problem",
    "Report",
    "ResumableSampler",
    "SeededMapDataset",
    "SegmentationMapper",
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "check_coco_json",
    "register_builtin",
    "register_coco_json",
    "register_coco_panoptic",
    "register_custom_datasets",
    "register_semantic_folders",
    "register_synthetic",
    "unregister_builtin",
]
