"""Models as files of other runtimes: ONNX, OpenVINO, and programs of PyTorch."""

from .check import Comparison
from .export import Options, export_model, fixed_sizes, format_of

__all__ = ["Comparison", "Options", "export_model", "fixed_sizes", "format_of"]
