"""ONNX models as files of OpenVINO."""

from __future__ import annotations

from pathlib import Path

from mask2former_runtime.metadata import KEY, Metadata
from mask2former_runtime.networks import library_file


def write(onnx: bytes, metadata: Metadata, path: Path, *, precision: str) -> None:
    """Write ``path`` (.xml) and the weights beside it (.bin).

    Args:
        onnx: a serialised ONNX model.
        metadata: see `describe`; written into the runtime information.
        path: the file.
        precision: with "fp16", weights are stored as float16.
    """
    import openvino

    core = openvino.Core()
    library = library_file()
    if library is not None:
        core.add_extension(library)
    model = core.read_model(onnx)
    model.set_rt_info(metadata.to_text(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=precision == "fp16")
