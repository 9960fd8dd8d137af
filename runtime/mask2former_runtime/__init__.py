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

# Where the names are that are imported when they are used first, so that the command `mask2former`
# answers --help without NumPy.
_HOMES = {
    "Classes": ".classes",
    "ExportError": ".errors",
    "ImageReadError": ".image",
    "ImageSource": ".prediction",
    "InputSpec": ".metadata",
    "InstancePrediction": ".predictions",
    "Metadata": ".metadata",
    "Model": ".model",
    "PanopticPrediction": ".predictions",
    "Prediction": ".prediction",
    "Rules": ".metadata",
    "Segmenter": ".model",
    "SemanticPrediction": ".predictions",
    "load": ".model",
}

if not TYPE_CHECKING:  # for which every name would be there

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name], __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
