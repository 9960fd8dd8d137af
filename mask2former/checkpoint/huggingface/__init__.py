"""Hugging Face's Mask2Former: its files and ours, both ways, without `transformers`.

config: the whole `config.json`, with the task and the classes. config_keys: the table of its keys.
preprocessor: `preprocessor_config.json`. weight_names: the table of parameter names.
"""

from .config import class_names_of, hf_config, merge_hf_config, task_of_cfg
from .preprocessor import PREPROCESSOR_FILE, hf_preprocessor

__all__ = [
    "PREPROCESSOR_FILE",
    "class_names_of",
    "hf_config",
    "hf_preprocessor",
    "merge_hf_config",
    "task_of_cfg",
]
