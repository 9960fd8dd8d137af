"""Programs as ONNX models, in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mask2former_runtime.metadata import KEY, Metadata

from .program import quiet

OPSETS = {"gather": 18, "grid_sample": 20, "plugin": 18}
"""The lowest opset for each way of computing deformable attention."""


def to_onnx(
    program: torch.export.ExportedProgram,
    outputs: Sequence[str],
    *,
    opset: int,
    precision: str,
) -> Any:
    """Translate a program.

    Args:
        program: see `trace`.
        outputs: their names.
        opset: version of ONNX's operators.
        precision: "fp32", "fp16", whose weights are stored as float16, or "int8", whose linear
            layers compute with 8-bit integers.

    Returns:
        ``onnx.ModelProto``.
    """
    with quiet(), sdpa_kernel(SDPBackend.MATH):  # see `trace`
        result = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=list(outputs),
            verbose=False,
        )
    assert result is not None
    model = result.model_proto
    del result
    _tidy(model)
    if precision == "fp16":
        _store_as_float16(model)
    elif precision == "int8":
        model = _quantized(model)
    return model


def add_metadata(model: Any, metadata: Metadata) -> None:
    """Let an ONNX model hold the metadata as JSON."""
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, metadata.to_text()


def _tidy(model: Any) -> None:
    """Name the open dimensions of the input, and leave out what only says how nodes came about."""
    for dimension, name in zip(
        model.graph.input[0].type.tensor_type.shape.dim,
        ("batch", "", "height", "width"),
        strict=True,
    ):
        if dimension.dim_param:
            dimension.dim_param = name
    # onnxruntime cannot infer the shapes of other operators than ONNX's.
    others = {name for node in model.graph.node if node.domain for name in node.output}
    kept = [info for info in model.graph.value_info if info.name in others]
    for info in (*model.graph.output, *kept):
        for dimension in info.type.tensor_type.shape.dim:
            if dimension.dim_param:  # a formula in names that no longer exist
                dimension.Clear()
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    del model.metadata_props[:]
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


def _store_as_float16(model: Any) -> None:
    """Store the weights as float16, in place; runtimes convert them back when they load the file.

    Arithmetic stays float32, in which the masks that attention follows hardly change.
    """
    import onnx
    from onnx import numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < 64:  # scalars and such, of which nothing is saved
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), f"{name}_float16"))
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _quantized(model: Any) -> Any:
    """Quantise the linear layers, their inputs dynamically."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        with quiet():
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        return onnx.load(path)
