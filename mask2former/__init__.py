"""Mask2Former as a Detectron2 extension.

Importing this package registers its models and data sets with Detectron2.
"""

import warnings

with warnings.catch_warnings():
    # Its losses use `torch.jit.script`. Whoever runs Mask2Former cannot do anything about that.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    import detectron2.modeling  # noqa: F401

from . import data, modeling
from .config import add_maskformer2_config, load_config

__version__ = "0.1.0"

__all__ = ["add_maskformer2_config", "data", "load_config", "modeling"]
