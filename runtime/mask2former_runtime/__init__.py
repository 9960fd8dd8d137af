"""Segment images with exported Mask2Former models, without PyTorch and Detectron2.

import mask2former_runtime

model = mask2former_runtime.load("mine.onnx")
result = model.predict("photo.jpg")
"""

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
