"""What Mask2Former models find in images: results that draw, save and convert themselves.

It needs NumPy and Pillow only: neither PyTorch nor Detectron2.
"""

from .classes import Classes
from .prediction import ImageSource, Prediction
from .predictions import InstancePrediction, PanopticPrediction, SemanticPrediction

__all__ = [
    "Classes",
    "ImageSource",
    "InstancePrediction",
    "PanopticPrediction",
    "Prediction",
    "SemanticPrediction",
]
