"""Mask2Former as a Detectron2 extension.

Importing this package registers its models and data sets with Detectron2.
"""

import warnings

with warnings.catch_warnings():
    # Detectron2's losses use `torch.jit.script`, which users of Mask2Former cannot change.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    import detectron2.modeling  # noqa: F401

from . import data, modeling
from .config import add_maskformer2_config, load_config

__version__ = "0.1.0"

__all__ = ["add_maskformer2_config", "data", "load_config", "modeling"]
