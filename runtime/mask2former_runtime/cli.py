"""The command ``mask2former-runtime``: predict with an exported model, without PyTorch."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .commands import print_line, probability, run_reporting_errors, start_output
from .errors import ExportError
from .image import ImageReadError
from .inputs import expand_inputs, image_ids, map_names, output_paths
from .metadata import TASKS
from .model import Segmenter, load
from .prediction import save_picture
from .result_files import Results, build_results, check_result_paths
from .stored import read_as
from .text import one_line

EPILOG = """\
examples:
  mask2former-runtime predict photo.jpg --model mine.onnx --output out/
  mask2former-runtime predict 'photos/*.jpg' --model mine.onnx --json results.json --threshold 0.3

exit status: 0 everything was done; 1 an image was skipped, or a file cannot be written; 2 nothing
was done, because the command or the model is wrong; 130 interrupted, 143 ended by SIGTERM,
141 nobody reads the output.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="mask2former-runtime",
        description="Segment images with exported Mask2Former models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    verb = verbs.add_parser(
        "predict", help="segment images, and draw what is found",
        description="Segment images with an exported model, and draw what it finds.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders and quoted patterns such as 'dir/*.png'",
    )
    verb.add_argument(
        "--model", required=True, metavar="FILE", help="exported model: .onnx, or .xml of OpenVINO"
    )
    verb.add_argument(
        "--output",
        metavar="PATH",
        default="predictions",
        help="a folder, or a file for one input (default: the folder predictions)",
    )
    verb.add_argument(
        "--json", metavar="FILE", help="write the results too, in COCO's formats or as label maps"
    )
    verb.add_argument(
        "--task", choices=TASKS, metavar="TASK",
        help="panoptic, instance or semantic (default: what the model was exported for)",
    )  # fmt: skip
    verb.add_argument(
        "--threshold",
        type=probability,
        metavar="SCORE",
        help="lowest score, 0 to 1 (default: that of the model)",
    )
    verb.add_argument("--threads", type=int, metavar="N", help="threads that compute")
    verb.add_argument(
        "--provider",
        action="append",
        metavar="NAME",
        help="execution provider of onnxruntime, or device of OpenVINO (default: the CPU)",
    )
    verb.add_argument(
        "--operator-library", metavar="FILE", help="library with operators that the model needs"
    )
    verb.set_defaults(run=predict)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Raises:
        SystemExit: see `run_reporting_errors`.
    """
    parser = argument_parser()
    args = parser.parse_args(arguments)
    start_output("mask2former_runtime")
    return run_reporting_errors(parser.prog, args.run, args)


def predict(args: argparse.Namespace) -> int:
    """Segment the inputs; return 1 if one was skipped.

    Raises:
        ValueError: the command or the model cannot be used.
        OSError: the results cannot be written.
    """
    inputs = expand_inputs(args.inputs)
    outputs = output_paths(inputs, Path(args.output))
    model = load(
        args.model,
        threads=args.threads,
        providers=args.provider,
        operator_library=args.operator_library,
    )
    segmenter = model.segmenter(args.task, args.threshold)
    results = None
    if args.json is not None:
        results = build_results(segmenter.task, segmenter.classes, Path(args.json))
        check_result_paths(results, map_names(inputs), inputs, outputs)
        results.path.parent.mkdir(parents=True, exist_ok=True)
    skipped = 0
    names = zip(inputs, outputs, image_ids(inputs), map_names(inputs), strict=True)
    for number, (path, output, image_id, map_name) in enumerate(names, start=1):
        start = time.perf_counter()
        try:
            image = read_as(path, segmenter.stored)
            found = _find(segmenter, image, output, results, (image_id, str(path), map_name))
        except (ImageReadError, ExportError, OSError, MemoryError) as error:
            reason = error if isinstance(error, ImageReadError) else f"{path}: {_short(error)}"
            print_line(f"[{number}/{len(inputs)}] SKIPPED {reason}", sys.stderr)
            skipped += 1
            continue
        seconds = time.perf_counter() - start
        print_line(f"[{number}/{len(inputs)}] {path}: {found} in {seconds:.2f} s -> {output}")
    if results is not None:
        results.write()
        print(f"{results.count()} written to {args.json}")
    return 1 if skipped else 0


def _find(
    segmenter: Segmenter,
    image: np.ndarray,
    output: Path,
    results: Results | None,
    names: tuple[int, str, str],
) -> str:
    """Segment an image, write its picture, and return what was found, in words."""
    found = segmenter.find(image)
    if results is not None:
        results.add(found, *names)
    save_picture(found.plot(), output)
    return found.summary()


def _short(error: Exception) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return one_line(str(error)) or "out of memory"
