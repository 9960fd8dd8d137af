"""Segment images or a video with a trained model, and draw what it finds.

A file that cannot be read is reported and skipped; the exit status is then 1.

Examples:
  mask2former predict output/mine photo.jpg
  mask2former predict output/mine photo.jpg 'more/*.png' folder/ --output out/
  mask2former predict model_final.pth photo.jpg --json results.json --threshold 0.3
  mask2former predict output/mine film.mp4 --output film_segmented.mp4
  mask2former predict photo.jpg --model mine.onnx
  mask2former predict large.tif --model output/mine --tile 1024 --output out/
  mask2former predict coco/panoptic-segmentation/maskformer2_R50_bs16_50ep photo.jpg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mask2former_runtime.commands import probability

from ..flags.folder import add_task
from ..flags.precision import add_precision
from .flags import MODEL_HELP, add_model_flags, model_overrides
from .selection_flags import add_selection_flags, selection_of
from .tiling_flags import add_tiling_flags, tiling_of

if TYPE_CHECKING:
    from ..inference.runs import ImageRun, VideoRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the inputs, the outputs and what to find."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--model", dest="named_model", metavar="MODEL", help="another way to name the model"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders and quoted patterns such as 'dir/*.png', or one video",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="a folder, or a file for one input (default: the folder predictions)",
    )
    parser.add_argument("--show", action="store_true", help="show the pictures in a window")
    parser.add_argument(
        "--json", metavar="FILE", help="write the results too, in COCO's formats or as label maps"
    )
    add_task(parser, "default: the first that the model does")
    parser.add_argument(
        "--threshold",
        type=probability,
        metavar="SCORE",
        help="lowest score, 0 to 1 (default: of `evaluate`, the config or 0.5)",
    )
    add_selection_flags(parser)
    add_tiling_flags(parser)
    add_model_flags(parser)
    add_precision(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the inputs; return 1 if one was skipped."""
    from ..inference.model_sources import find_model

    model, inputs = args.model, args.inputs
    if args.named_model is not None:
        inputs = [*(() if model is None else (model,)), *inputs]
        model = args.named_model
    if model is None:
        raise ValueError("name the model, and then the images")
    work = _work(inputs, args.output or (None if args.show else "predictions"), args.show)
    found = find_model(model)
    return segment(work, args, found.config_file, [*found.overrides, *model_overrides(args)])


def segment(
    work: ImageRun | VideoRun,
    args: argparse.Namespace,
    config_file: str,
    overrides: Sequence[object],
) -> int:
    """Load a model, let it segment, and write the results.

    Args:
        work: the inputs and the pictures of them.
        args: ``json``, ``task``, ``threshold``, ``precision``, and the flags of a selection, of
            tiles and of trust.
        config_file: see `load_model`.
        overrides: of the config.

    Returns:
        The exit status: 1 if an input was skipped.

    Raises:
        ValueError: the command, the config or the weights cannot be used.
        OSError: the results cannot be written.
    """
    import torch

    from mask2former_runtime.result_files import build_results

    from ..inference.segmenters import Segmenter, load_model
    from ..inference.tiling.tiled import TiledSegmenter
    from ..utils.device import choose_precision
    from ..utils.memory import reuse_freed_memory

    tiling = tiling_of(args)
    model = load_model(
        config_file,
        overrides,
        task=args.task,
        allow_unsafe_config=args.allow_unsafe_config,
        allow_unsafe_weights=args.allow_unsafe_weights,
    )
    device = torch.device(model.cfg.MODEL.DEVICE)
    model.predictor.precision = choose_precision(args.precision, device)
    if device.type == "cpu":
        reuse_freed_memory()
    plain = model.segmenter(threshold=args.threshold)
    segmenter: Segmenter | TiledSegmenter = plain
    if tiling is not None:
        segmenter = TiledSegmenter(
            plain,
            tiling,
            lambda: {"model": model.fingerprint(), "threshold": args.threshold},
        )
    selection = selection_of(args, segmenter.classes, segmenter.task)
    results = None
    if args.json is not None:
        results = build_results(segmenter.task, segmenter.classes, Path(args.json))
        work.check_results(results)
        results.path.parent.mkdir(parents=True, exist_ok=True)
    succeeded = work.run(segmenter, results, selection)
    if results is not None:
        try:
            results.write()
        except OSError as error:
            raise OSError(f"{args.json}: {error.strerror or error}") from error
        print(f"{results.count()} written to {args.json}")
    return 0 if succeeded else 1


def _work(inputs: Sequence[str], output: str | None, show: bool) -> ImageRun | VideoRun:
    from ..inference.runs import ImageRun, VideoRun
    from ..inference.video import VIDEO_SUFFIXES, is_video

    if len(inputs) == 1 and is_video(inputs[0]):
        return VideoRun(inputs[0], output, show=show)
    for path in inputs:
        if Path(path).suffix.lower() in VIDEO_SUFFIXES:
            raise ValueError(f"{path} is a video: give one video, and no other input")
    return ImageRun(inputs, output, show=show)
