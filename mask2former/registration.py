"""Importing this module registers the models and data sets with Detectron2."""

import warnings

with warnings.catch_warnings():
    # Detectron2's losses use `torch.jit.script`, which users of Mask2Former cannot change.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    import detectron2.modeling

from . import data, detectron2_lookups, modeling

detectron2_lookups.extend()

__all__ = ["data", "detectron2", "modeling"]
