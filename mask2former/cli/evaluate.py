"""Measure the accuracy of a trained model on a folder of your own data.

The validation set of the folder counts. In a folder without splits it is what the run of the model
held out or, for other models, everything. The command prints AP, PQ or mIoU, whichever the model
and the data allow. The model computes as in `mask2former predict`.

Examples:
  mask2former evaluate output/mine --data my_data
  mask2former evaluate output/mine --data my_data --find-thresholds --wanted-precision 0.9
  mask2former evaluate output/mine --data my_data --opts TEST.AUG.ENABLED True
  mask2former evaluate coco/instance-segmentation/maskformer2_R50_bs16_50ep --data coco_format
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..flags.folder import add_split
from ..flags.precision import add_precision
from ..flags.thresholds import add_threshold_flags
from .flags import add_data, add_model, add_model_flags, model_overrides, run_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the data and where the results go."""
    add_model(parser)
    add_data(parser)
    add_split(parser)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="of the results (default: evaluation/NAME of data in the folder of the model, or here "
        "if it has none)",
    )
    parser.add_argument(
        "--report", metavar="DIR", help="write report.html there: curves, errors, best images"
    )
    add_precision(parser)
    add_threshold_flags(parser)
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes (default: %(default)s)"
    )
    add_model_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate as `train_net.py --eval-only` does."""
    from ..checkpoint.resume import newest_checkpoints
    from ..inference.exported import is_exported
    from ..inference.model_sources import find_model
    from .train import launch_run

    default = _folder(args.model, args.data, is_exported(args.model))
    output = Path(args.output or default)
    if newest_checkpoints(output) or any(output.glob("inference*")):
        raise ValueError(
            f"{output} already holds results: choose another folder with --output, or delete it"
        )
    found = find_model(args.model)
    of_predict = ("SOLVER.AMP.ENABLED", "False")
    overrides = ["OUTPUT_DIR", str(output), *of_predict, *found.overrides, *model_overrides(args)]
    launch_run(run_of(args, found.config_file, overrides, eval_only=True))
    print(f"Results: {output}")
    return 0


def _folder(model: str, data: str, exported: bool) -> Path:
    """Return where the results go unless the user says so."""
    path, name = Path(model), Path(data).resolve().name
    if path.is_file():
        if exported:  # its results come beside those of the run that it is from
            name = f"{name}_{path.name}"
        path = path.parent
    return (path if path.is_dir() else Path()) / "evaluation" / name
