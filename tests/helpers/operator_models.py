"""The attention operator as one node of an ONNX model, in the runtimes that run it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

import mask2former.modeling.ops  # noqa: F401  defines the operator
from mask2former_runtime.networks import openvino_core

Run = Callable[..., np.ndarray]  # of the operator's five arguments

DOMAIN, NAME = "mask2former", "ms_deform_attn"
# types and ranks
INPUTS = {
    "value": (TensorProto.FLOAT, 4),
    "spatial_shapes": (TensorProto.INT64, 2),
    "level_start_index": (TensorProto.INT64, 1),
    "sampling_locations": (TensorProto.FLOAT, 6),
    "attention_weights": (TensorProto.FLOAT, 5),
}


def one_node(inputs: dict[str, tuple[int, int]] = INPUTS) -> bytes:
    """Return an ONNX file that computes the operator, for arguments of any sizes."""
    graph = helper.make_graph(
        [helper.make_node(NAME, list(inputs), ["output"], domain=DOMAIN)],
        "operator",
        [
            helper.make_tensor_value_info(name, kind, [None] * rank)
            for name, (kind, rank) in inputs.items()
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * 3)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString()


def in_onnxruntime(library: Path, model: bytes, *, threads: int = 1) -> Run:
    """Load a model with the operator's library in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return lambda *arguments: session.run(None, dict(zip(names, arguments, strict=True)))[0]


def in_openvino(library: Path, model: bytes, *, threads: int = 1, **properties: str) -> Run:
    """Load a model with the operator's library in OpenVINO."""
    core = openvino_core(str(library))
    compiled = core.compile_model(
        core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": threads, **properties}
    )

    def run(*arguments: np.ndarray) -> np.ndarray:
        request = compiled.create_infer_request()
        # Not infer(): in OpenVINO 2026.4 for Python it loses the errors of operators.
        request.start_async(dict(enumerate(arguments)))
        request.wait()
        return request.get_output_tensor(0).data.copy()

    return run


RUNTIMES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def arguments(
    *, batch: int = 1, queries: int = 5, heads: int = 3, channels: int = 20, points: int = 4,
    levels: tuple[tuple[int, int], ...] = ((3, 5), (2, 2), (1, 1)), seed: int = 0,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return the operator's arguments, with locations in the map, on its border and outside."""
    rng = np.random.default_rng(seed)
    sizes = np.array(levels, dtype=np.int64).reshape(-1, 2)
    areas = sizes.prod(1)
    shape = (batch, queries, heads, len(sizes), points)
    locations = (rng.random((*shape, 2)) * 1.6 - 0.3).astype(np.float32)
    odd = [0, 1, -0.5, 1.5, 1e6, -1e6, np.nan, np.inf, -np.inf]
    places = rng.random(locations.shape) < 0.3
    locations[places] = rng.choice(odd, places.sum())
    return (
        rng.standard_normal((batch, areas.sum(), heads, channels)).astype(np.float32),
        sizes,
        areas.cumsum() - areas,
        locations,
        rng.random(shape).astype(np.float32),
    )


def in_torch(arguments: tuple[np.ndarray, ...]) -> np.ndarray:
    """Compute the operator in PyTorch."""
    return torch.ops.mask2former.ms_deform_attn(*map(torch.from_numpy, arguments)).numpy()
