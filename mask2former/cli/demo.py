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
from collections.abc import Sequence

from mask2former_runtime.commands import probability, run_reporting_errors, start_output

from ..flags.precision import add_precision
from ..flags.trust import add_trust_flags
from ..inference.segmenters import DEFAULT_THRESHOLD
from ..tasks import TASKS
from .predict import segment
from .selection_flags import add_selection_flags
from .tiling_flags import add_tiling_flags


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
        dest="threshold",
        type=probability,
        metavar="SCORE",
        help="0 to 1. instance: leave out instances below this score (default: as "
        f"`evaluate --find-thresholds` stored, or {DEFAULT_THRESHOLD}). panoptic: ignore queries "
        "whose class does not have a higher probability (default: "
        "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD of the config). semantic: not allowed, "
        "because each pixel gets the class with the highest score",
    )
    add_selection_flags(parser)
    add_tiling_flags(parser)
    add_precision(parser)
    add_trust_flags(parser)
    parser.add_argument(
        "--opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="config keys to change, such as MODEL.WEIGHTS model_final.pth MODEL.DEVICE cpu",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    start_output("mask2former")
    return run_reporting_errors(parser.prog, _run, args)


def _run(args: argparse.Namespace) -> int:
    from ..inference.runs import ImageRun, VideoRun

    show = args.output is None and args.json is None
    work: ImageRun | VideoRun
    if args.input is not None:
        work = ImageRun(args.input, args.output, show=show)
    else:
        work = VideoRun(args.video_input, args.output, show=show)
    return segment(work, args, args.config_file, args.opts)
