"""Data sets, mappers and loaders. Importing this package registers the built-in data sets."""

import os

from .builtin import register_synthetic
from .coco_json import register_coco_json

register_synthetic(os.getenv("DETECTRON2_DATASETS", "datasets"))

__all__ = ["register_coco_json", "register_synthetic"]
