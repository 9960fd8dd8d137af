"""Segment images or videos with a trained model: instances, panoptic segments or classes of pixels.

The command draws pictures and writes results as JSON.

Examples:
    demo.py --config-file output/config.yaml --input photo.jpg --output out/
    demo.py --config-file panoptic.yaml --task instance --input photo.jpg --output out/
    demo.py --config-file configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml \\
        --input photo.jpg 'more/*.png' folder/ --output out/ --json out/results.json \\
        --opts MODEL.WEIGHTS model_final.pth MODEL.DEVICE cpu
    demo.py --config-file output/config.yaml --video-input film.mp4 --output out/film.mp4

Exit status: 0 if everything was done, 1 if a file was skipped or cut off or results could not be
written, 2 if nothing was done because of an error in the command, the config or the weights.
"""

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine.setup import add_trust_flags
from ..inference.results import Results, build_results
from ..inference.runs import ImageRun, VideoRun
from ..inference.segmenters import DEFAULT_THRESHOLD, Segmenter, load_model
from ..inference.selection import Selection
from ..inference.video import VideoError
from ..tasks import TASKS
from .selection_flags import add_selection_flags, selection_of


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="image files, folders and quoted patterns such as 'dir/*.png'",
    )
    source.add_argument("--video-input", metavar="FILE", help="video file")
    source.add_argument("--webcam", action="store_true", help="first camera of this machine")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="folder, or a file for one image or video; without it, show pictures in a window",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        help="what to find (default: the first of these that the config switches on, or instances "
        "if the config switches them on and no class is stuff). A panoptic model can do all three",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the results to this file. instance: COCO results with file_name, and beside "
        "it, with the suffix .coco.json, a COCO file with images and categories. panoptic: "
        "COCO's panoptic format; its PNG files go to the folder named like FILE without .json. "
        "semantic: a list of label maps, which are PNG files in that folder; their pixels are "
        "classes from 0. image_id is the file name if all names are distinct numbers; otherwise it "
        "is the position in the input, from 1 (for video: the frame, from 0)",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=_probability,
        metavar="SCORE",
        help="0 to 1. instance: leave out instances below this score (default: "
        f"{DEFAULT_THRESHOLD}). panoptic: ignore queries whose class does not have a higher "
        "probability (default: MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD of the config). "
        "semantic: not allowed, because each pixel gets the class with the highest score",
    )
    add_selection_flags(parser)
    add_trust_flags(parser)
    parser.add_argument(
        "--opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="config keys to change, such as MODEL.WEIGHTS model_final.pth MODEL.DEVICE cpu",
    )
    return parser


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("mask2former").setLevel(logging.INFO)
    try:
        run, segmenter, results, selection = _prepare(args)
    except VideoError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files can be any bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    succeeded = run.run(segmenter, results, selection)
    if results is not None:
        try:
            results.write()
        except OSError as error:
            parser.exit(1, f"{parser.prog}: error: {args.json}: {error.strerror or error}\n")
        print(f"{results.count()} written to {args.json}")
    return 0 if succeeded else 1


def _prepare(
    args: argparse.Namespace,
) -> tuple[ImageRun | VideoRun, Segmenter, Results | None, Selection | None]:
    """Check the command, starting with the quick checks, and load the model."""
    show = args.output is None and args.json is None
    run: ImageRun | VideoRun
    if args.input is not None:
        run = ImageRun(args.input, args.output, show=show)
    else:
        run = VideoRun(args.video_input, args.output, show=show)
    model = load_model(
        args.config_file,
        args.opts,
        task=args.task,
        allow_unsafe_config=args.allow_unsafe_config,
        allow_unsafe_weights=args.allow_unsafe_weights,
    )
    segmenter = model.segmenter(threshold=args.confidence_threshold)
    selection = selection_of(args, segmenter.classes, segmenter.task)
    if args.json is None:
        return run, segmenter, None, selection
    results = build_results(segmenter, Path(args.json))
    run.check_results(results)
    results.path.parent.mkdir(parents=True, exist_ok=True)
    return run, segmenter, results, selection


if __name__ == "__main__":
    sys.exit(main())
