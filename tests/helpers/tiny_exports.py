"""Exported files of a network that has two layers, and the same network in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from operator_models import DOMAIN, INPUTS, NAME, arguments, in_torch
from torch import nn
from torch.nn import functional as F

from mask2former.inference.predictor import Predictor
from mask2former.inference.segmenters import Segmenter
from mask2former.modeling.meta_arch import MaskFormer
from mask2former_runtime import Classes, InputSpec, Metadata, Rules
from mask2former_runtime.metadata import KEY
from mask2former_runtime.networks import openvino_core

QUERIES = 20
CLASSES = Classes(["cat", "dog", "sky"], [7, 3, 12], frozenset([0, 1]), ignore_label=255)
MIN_SIZE, MAX_SIZE = 96, 160
MEAN, STD = (120.0, 115.0, 100.0), (58.0, 57.0, 56.0)


def tiny_metadata(**changes: Any) -> Metadata:
    """The metadata of a panoptic model, with other values of `InputSpec` or of the whole."""
    spec: dict[str, Any] = {"channel_order": "RGB", "mean": MEAN, "std": STD}
    spec |= {"size_divisibility": 32, "min_size": MIN_SIZE, "max_size": MAX_SIZE}
    spec |= {key: changes.pop(key) for key in list(changes) if key in InputSpec.__annotations__}
    rules = Rules(
        max_detections=25,
        object_mask_threshold=0.3,
        overlap_threshold=0.4,
        semantic_resize_first=changes.pop("semantic_resize_first", False),
        threshold=0.2,
    )
    return Metadata(
        **{
            "task": "panoptic",
            "tasks": ("panoptic", "instance", "semantic"),
            "classes": CLASSES,
            "input": InputSpec(**spec),
            "postprocessing": rules,
            "producer": "tests",
            **changes,
        }
    )


def weights() -> dict[str, np.ndarray]:
    """Masks from patches of 4 x 4 pixels, and classes from the mean colour."""
    rng = np.random.default_rng(0)
    outputs = QUERIES * (len(CLASSES) + 1)
    return {
        "patches": rng.normal(size=(QUERIES, 3, 4, 4)).astype(np.float32),
        "offsets": rng.normal(size=QUERIES).astype(np.float32) - 0.3,
        "colors": rng.normal(size=(3, outputs)).astype(np.float32),
        "biases": (2 * rng.normal(size=outputs)).astype(np.float32),
    }


def write_onnx(path: Path, metadata: Metadata | str | None, operator: str = "MatMul") -> Path:
    """Write the network as ONNX file.

    Args:
        path: the file.
        metadata: of the model, or the text of them, or none.
        operator: what multiplies the mean colour; another one may not exist.
    """
    spec = metadata.input if isinstance(metadata, Metadata) else None
    sizes = (
        ["B", "H", "W"]
        if spec is None
        else [spec.batch or "B", spec.height or "H", spec.width or "W"]
    )
    constants = {
        **weights(),
        "axes": np.array([2, 3]),
        "shape": np.array([-1, QUERIES, len(CLASSES) + 1]),
    }
    nodes = [
        helper.make_node("Conv", ["images", "patches", "offsets"], ["masks"], strides=[4, 4]),
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node(operator, ["mean", "colors"], ["product"]),
        helper.make_node("Add", ["product", "biases"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["logits"]),
    ]
    batch, height, width = sizes
    graph = helper.make_graph(
        nodes,
        "tiny",
        [_float("images", [batch, 3, height, width])],
        [_float("logits", [batch, QUERIES, 4]), _float("masks", [batch, QUERIES, "h", "w"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    # The version of the format is that of exported files: onnxruntime-web knows no newer ones.
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else metadata.to_text()
        helper.set_model_props(model, {KEY: text})
    onnx.save(model, path)
    return path


def write_openvino(path: Path, metadata: Metadata) -> Path:
    """Write the network as OpenVINO model."""
    import openvino

    model = openvino.convert_model(write_onnx(path.with_suffix(".onnx"), metadata))
    model.set_rt_info(metadata.to_text(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


WRITERS = {".onnx": write_onnx, ".xml": write_openvino}


def write_plugin(folder: Path, runtime: str, library: Path) -> Path:
    """Write the network with the attention operator as a node, which changes the result by nothing.

    The sum of what the operator gives for some arguments is added to the classes' biases, which are
    less by as much.

    Args:
        folder: for the files.
        runtime: "onnxruntime" or "openvino".
        library: of the operator.
    """
    given = arguments()
    total = np.float32(np.abs(in_torch(given)).sum())
    model = onnx.load(write_onnx(folder / "plugin.onnx", tiny_metadata(operator="plugin")))
    constants = dict(zip(INPUTS, given, strict=True)) | {"total": total}
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    nodes = [
        helper.make_node(NAME, list(INPUTS), ["sampled"], domain=DOMAIN),
        helper.make_node("Abs", ["sampled"], ["positive"]),
        helper.make_node("ReduceSum", ["positive"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["sum", "total"], ["nothing"]),
        helper.make_node("Add", ["biases", "nothing"], ["same"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    next(node for node in model.graph.node if node.output[0] == "flat").input[1] = "same"
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.save(model, folder / "plugin.onnx")
    if runtime == "onnxruntime":
        return folder / "plugin.onnx"
    import openvino

    converted = openvino_core(str(library)).read_model(folder / "plugin.onnx")
    converted.set_rt_info(tiny_metadata(operator="plugin").to_text(), [KEY])
    openvino.save_model(converted, folder / "plugin.xml", compress_to_fp16=False)
    return folder / "plugin.xml"


def changed_text(**changes: Any) -> str:
    """The text of the metadata with other values."""
    return json.dumps({**json.loads(tiny_metadata().to_text()), **changes})


def _float(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


class _Network(nn.Module):
    size_divisibility = 32

    def __init__(self) -> None:
        super().__init__()
        for name, array in weights().items():
            self.register_buffer(name, torch.from_numpy(array))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = images.mean((2, 3)) @ self.colors + self.biases
        return {
            "pred_logits": logits.view(-1, QUERIES, len(CLASSES) + 1),
            "pred_masks": F.conv2d(images, self.patches, self.offsets, stride=4),
        }


def tiny_segmenter(task: str, metadata: Metadata, threshold: float | None = None) -> Segmenter:
    """The package's own segmenter of the same network."""
    rules = metadata.postprocessing
    network = _Network()
    model = MaskFormer(
        backbone=nn.Identity(),
        sem_seg_head=network,
        criterion=None,
        size_divisibility=32,
        pixel_mean=list(MEAN),
        pixel_std=list(STD),
        max_detections=rules.max_detections,
        panoptic_on=True,
        object_mask_threshold=rules.object_mask_threshold,
        overlap_threshold=rules.overlap_threshold,
        thing_classes=metadata.classes.things,
    ).only(
        task,
        semantic_resize_first=rules.semantic_resize_first,
        object_mask_threshold=threshold if task == "panoptic" else None,
    )
    predictor = Predictor(
        model,
        min_size=metadata.input.min_size,
        max_size=metadata.input.max_size,
        image_format=metadata.input.channel_order,
    )
    lowest = rules.threshold if threshold is None else threshold
    return Segmenter(predictor, metadata.classes, task, lowest)
