"""ONNX models as files of OpenVINO."""

from __future__ import annotations

from pathlib import Path

from mask2former_runtime.files import sha256_of
from mask2former_runtime.metadata import KEY, Metadata
from mask2former_runtime.networks import WEIGHTS_DIGEST, openvino_core


def write(
    onnx: bytes, metadata: Metadata, path: Path, *, precision: str, library: str | None
) -> None:
    """Write ``path`` (.xml) and the weights beside it (.bin).

    Args:
        onnx: a serialised ONNX model.
        metadata: see `describe`; written into the runtime information.
        path: the file.
        precision: with "fp16", weights are stored as float16.
        library: with operators that the model needs.
    """
    import openvino

    model = openvino_core(library).read_model(onnx)
    model.set_rt_info(metadata.to_text(), [KEY])
    to_fp16 = precision == "fp16"
    openvino.save_model(model, path, compress_to_fp16=to_fp16)
    model.set_rt_info(sha256_of(path.with_suffix(".bin")), [WEIGHTS_DIGEST])
    openvino.save_model(model, path, compress_to_fp16=to_fp16)  # the same weights again
