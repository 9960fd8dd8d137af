"""Boundary AP of instance predictions (Cheng et al. 2021) from files in COCO's format.

    python -m mask2former.cli.evaluate_boundary_ap --truth annotations/instances_val2017.json \
        --results output/inference/coco_instances_results.json --workers 8
"""

import argparse
import os
import sys
from collections.abc import Sequence

from mask2former_runtime.commands import run_reporting_errors
from mask2former_runtime.files import write_json

from ..data.coco_format import read_coco, read_results
from ..evaluation.boundary import (
    DILATION_RATIO,
    RESULT_FIELDS,
    TRUTH_FIELDS,
    boundary_average_precision,
)
from ..evaluation.tables import class_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--truth", required=True, metavar="JSON", help="instance annotations")
    parser.add_argument("--results", required=True, metavar="JSON", help="predictions, RLE masks")
    parser.add_argument(
        "--dilation-ratio",
        type=float,
        default=DILATION_RATIO,
        help="width of the boundary, as a fraction of the image's diagonal (default: %(default)s)",
    )
    parser.add_argument(
        "--max-dets",
        type=int,
        default=100,
        help="detections that count per image and class (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="default: the number of cores"
    )
    parser.add_argument("--output", metavar="JSON", help="also write the numbers to this file")
    return run_reporting_errors(parser.prog, run, parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Read the files, print the numbers and write them on request; return 0."""
    scores = boundary_average_precision(
        read_coco(args.truth, TRUTH_FIELDS),
        read_results(args.results, RESULT_FIELDS),
        dilation_ratio=args.dilation_ratio,
        max_dets_per_image=args.max_dets,
        workers=args.workers,
    )
    print("Boundary AP in percent:")
    averages = {name: value for name, value in scores.items() if not name.startswith("AP-")}
    print(class_table(list(averages), [list(averages.values())]))
    print(class_table(["class", "AP"], [(k[3:], v) for k, v in scores.items() if k[:3] == "AP-"]))
    if args.output:
        write_json(args.output, scores, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
