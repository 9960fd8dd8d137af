"""Hugging Face's Mask2Former: its config, its preprocessor and the names of its weights."""

from .config import class_metadata, class_names_of, hf_config, merge_hf_config, task_of_cfg
from .preprocessor import PREPROCESSOR_FILE, hf_preprocessor

__all__ = [
    "PREPROCESSOR_FILE",
    "class_metadata",
    "class_names_of",
    "hf_config",
    "hf_preprocessor",
    "merge_hf_config",
    "task_of_cfg",
]
