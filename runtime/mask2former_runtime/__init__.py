"""Segment images with exported Mask2Former models, without PyTorch and Detectron2.

import mask2former_runtime

model = mask2former_runtime.load("mine.onnx")
result = model.predict("photo.jpg")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classes import Classes
    from .errors import ExportError
    from .image import ImageReadError
    from .metadata import InputSpec, Metadata, Rules
    from .model import Model, Segmenter, load
    from .prediction import ImageSource, Prediction
    from .predictions import InstancePrediction, PanopticPrediction, SemanticPrediction

__all__ = [
    "Classes",
    "ExportError",
    "ImageReadError",
    "ImageSource",
    "InputSpec",
    "InstancePrediction",
    "Metadata",
    "Model",
    "PanopticPrediction",
    "Prediction",
    "Rules",
    "Segmenter",
    "SemanticPrediction",
    "load",
]

# The names of each module, which is imported when one of them is used first: commands answer
# --help without NumPy.
_NAMES = {
    "classes": ("Classes",),
    "errors": ("ExportError",),
    "image": ("ImageReadError",),
    "metadata": ("InputSpec", "Metadata", "Rules"),
    "model": ("Model", "Segmenter", "load"),
    "prediction": ("ImageSource", "Prediction"),
    "predictions": ("InstancePrediction", "PanopticPrediction", "SemanticPrediction"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
