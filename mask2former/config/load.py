"""Reading a config from a YAML file or from the folder of a Hugging Face model."""

from __future__ import annotations

import os
from collections.abc import Sequence

from detectron2.config import CfgNode, get_cfg

from ..checkpoint.huggingface import merge_hf_config
from .defaults import add_maskformer2_config
from .merge import merge_file, merge_overrides
from .validate import validate


def load_config(
    config_file: str,
    overrides: Sequence[object] = (),
    allow_unsafe: bool = False,
    *,
    task: str | None = None,
) -> CfgNode:
    """Merge a config file into Detectron2's and this package's defaults.

    Args:
        config_file: path (or URL that Detectron2's `PathManager` opens) of a YAML file, or a
            folder of a Hugging Face Mask2Former, which then is the `MODEL.WEIGHTS`.
        overrides: `[key, value, key, value, ...]`, as typed after the options of `train_net.py`.
        allow_unsafe: construct Python objects from YAML tags such as `!!python/object/apply`.
            This runs code written by the file's author.
        task: the task of a Hugging Face model whose folder does not state it.

    Returns:
        The config, not frozen.

    Raises:
        ValueError: a file is missing or not YAML, a key is unknown, a value has the wrong type or
            is out of range, or a tag would run Python and `allow_unsafe` is false.
    """
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    if os.path.isdir(config_file):
        merge_hf_config(cfg, config_file, fallback=task)
    else:
        merge_file(cfg, config_file, allow_unsafe)
    merge_overrides(cfg, overrides)
    validate(cfg)
    return cfg
