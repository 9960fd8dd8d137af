"""Measure the accuracy of a trained model on a folder of your own data.

The validation set of the folder counts. In a folder without splits it is what the run of the model
held out or, for other models, everything. The command prints AP, PQ or mIoU, whichever the model
and the data allow.

Examples:
  mask2former evaluate output/mine --data my_data
  mask2former evaluate output/mine --data my_data --opts TEST.AUG.ENABLED True
  mask2former evaluate coco/instance-segmentation/maskformer2_R50_bs16_50ep --data coco_format
"""

from __future__ import annotations

import argparse

from .flags import (
    add_data,
    add_model,
    add_model_flags,
    add_split,
    model_overrides,
    train_net_arguments,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the data and where the results go."""
    add_model(parser)
    add_data(parser)
    add_split(parser)
    parser.add_argument(
        "--output", default="evaluation", metavar="DIR", help="of the results (%(default)s)"
    )
    parser.add_argument(
        "--report", metavar="DIR", help="write report.html there: curves, errors, best images"
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes (default: %(default)s)"
    )
    add_model_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate as `train_net.py --eval-only` does."""
    from ..inference.model_sources import find_model
    from .train import main

    found = find_model(args.model)
    overrides = ["OUTPUT_DIR", args.output, *found.overrides, *model_overrides(args)]
    report = ["--report", args.report] if args.report is not None else []
    flags = train_net_arguments(args, found.config_file, overrides)
    main(["--eval-only", *report, *flags], args.prog)
    return 0
