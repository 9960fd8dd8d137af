#!/usr/bin/env python
"""The attention operator's libraries for onnxruntime and OpenVINO against the operator in PyTorch.

The shape is that of `bench_ms_deform_attn.py`. Each runtime runs a model of the operator alone; all
of them run in turn in one process, and figures are medians. They include what a runtime does around
an operator.

    python benchmarks/bench_runtime_libraries.py [--threads 1] [--repeat 21]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from bench_ms_deform_attn import arguments, milliseconds, print_ratios

from mask2former.modeling.ops.runtime_libraries import RUNTIMES, build_libraries
from mask2former_runtime.networks import openvino_core

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
from operator_models import one_node

Run = Callable[[], object]


def in_onnxruntime(library: Path, args: list[np.ndarray], threads: int) -> Run:
    """Return what runs the operator in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(one_node(), options)
    feeds = dict(zip((x.name for x in session.get_inputs()), args, strict=True))
    return lambda: session.run(None, feeds)


def in_openvino(library: Path, args: list[np.ndarray], threads: int) -> Run:
    """Return what runs the operator in OpenVINO."""
    core = openvino_core(str(library))
    model = core.compile_model(
        core.read_model(one_node()), "CPU", {"INFERENCE_NUM_THREADS": threads}
    )
    request = model.create_infer_request()
    for i, array in enumerate(args):
        request.set_input_tensor(i, openvino.Tensor(array, shared_memory=True))

    def run() -> None:
        request.start_async()
        request.wait()

    return run


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        libraries = dict(zip(RUNTIMES, build_libraries(RUNTIMES, folder), strict=True))
        for kind in ("grid", "uniform"):
            tensors = arguments(kind)
            arrays = [tensor.numpy() for tensor in tensors]
            runs = {
                "PyTorch": lambda args=tensors: torch.ops.mask2former.ms_deform_attn(*args),
                "onnxruntime": in_onnxruntime(libraries["onnxruntime"], arrays, options.threads),
                "OpenVINO": in_openvino(libraries["openvino"], arrays, options.threads),
            }
            print_ratios(f"{kind} locations", milliseconds(runs, options.repeat, "cpu"))


if __name__ == "__main__":
    main()
