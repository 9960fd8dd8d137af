"""Export a model to ONNX, OpenVINO or a program of PyTorch, and check the file.

The file takes images of any size, and holds all that is needed to use it with `predict` or, without
PyTorch, mask2former-runtime. Nothing is left if it differs from the model. Formats: onnx (.onnx),
openvino (.xml and .bin), pt2 (.pt2, torch.export), aoti (.pt2, compiled ahead of time: minutes).

Examples:
  mask2former export output/mine --output mine.onnx
  mask2former export output/mine --output mine.xml --precision fp16
  mask2former export output/mine --output mine.onnx --dynamic batch --size 640 640
  mask2former export output/mine --output mine.pt2 --format aoti
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..flags.folder import add_task
from .flags import add_config_flags, add_model

FORMATS = ("onnx", "openvino", "pt2", "aoti")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the file and how to write it."""
    add_model(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the new file")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        metavar="NAME",
        help="such as aoti (default: as the suffix of FILE says)",
    )
    add_task(parser, "what it predicts by default")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        default="fp32",
        metavar="TYPE",
        help="fp32 (default), fp16 (half the size), bf16 (openvino, pt2, aoti), int8 (onnx)",
    )
    parser.add_argument(
        "--operator",
        choices=("gather", "grid_sample", "plugin"),
        metavar="NAME",
        help="of attention: gather (default of onnx and openvino), grid_sample, or plugin, this "
        "project's own (default of pt2 and aoti)",
    )
    parser.add_argument(
        "--dynamic",
        default="batch,size",
        metavar="WHAT",
        help="what is open: batch,size (default), batch, size, or none",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="the size, in pixels, if it is not open",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: 18 or 20)")
    parser.add_argument(
        "--with-postprocessing",
        action="store_true",
        help="give results, for other programs, not queries",
    )
    parser.add_argument("--license", metavar="TEXT", help="of the weights, written into the file")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="to compare file and model on (default: drawn ones)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Export the model."""
    from ..api import Mask2Former

    model = Mask2Former.from_pretrained(
        args.model,
        task=args.task,
        device="cpu",
        overrides=args.opts,
        allow_unsafe_config=args.allow_unsafe_config,
        allow_unsafe_weights=args.allow_unsafe_weights,
    )
    model.export(
        args.output,
        format=args.format,
        precision=args.precision,
        operator=args.operator,
        dynamic=tuple(part for part in args.dynamic.split(",") if part != "none"),
        size=args.size and tuple(args.size),
        opset=args.opset,
        license=args.license,
        with_postprocessing=args.with_postprocessing,
        images=args.images,
        overwrite=args.overwrite,
    )
    return 0
