"""Panoptic quality of predictions in COCO's panoptic format: a JSON file and a folder of PNG files.

    python -m mask2former.cli.evaluate_panoptic --truth annotations/panoptic_val2017.json \
        --results output/inference/predictions.json
"""

import argparse
import os
import sys
from collections.abc import Sequence

from mask2former_runtime.commands import run_reporting_errors
from mask2former_runtime.files import write_json

from ..evaluation.panoptic import panoptic_table
from ..evaluation.panoptic_files import evaluate_files, read_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, what in (("truth", "ground truth"), ("results", "predictions")):
        parser.add_argument(f"--{name}", required=True, metavar="JSON", help=what)
        parser.add_argument(
            f"--{name}-folder",
            metavar="DIR",
            help="folder of its PNG files (default: the path of the JSON without .json)",
        )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="default: the number of cores"
    )
    parser.add_argument("--output", metavar="JSON", help="also write the numbers to this file")
    return run_reporting_errors(parser.prog, run, parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Read the files, print the numbers and write them on request; return 0."""
    truth = read_folder(args.truth, args.truth_folder)
    predictions = read_folder(args.results, args.results_folder)
    quality = evaluate_files(truth, predictions, workers=args.workers)
    print(panoptic_table(quality, truth))
    if args.output:
        names = dict(zip(truth.classes.ids, truth.classes.names, strict=True))
        classes = {
            names[i]: dict(zip(("PQ", "SQ", "RQ"), values, strict=True))
            for i, values in quality.per_category.items()
        }
        write_json(args.output, {**quality.averages, "classes": classes}, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
