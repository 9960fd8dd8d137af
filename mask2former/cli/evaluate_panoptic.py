"""Panoptic quality of predictions in COCO's panoptic format: a JSON file and a folder of PNG files.

    python -m mask2former.cli.evaluate_panoptic --truth annotations/panoptic_val2017.json \
        --results output/inference/predictions.json
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.panoptic import panoptic_table
from ..evaluation.panoptic_files import evaluate_files, read_folder
from ..utils.files import write_atomically


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the files, print the numbers; `arguments` by default those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, what in (("truth", "ground truth"), ("results", "predictions")):
        parser.add_argument(f"--{name}", required=True, metavar="JSON", help=what)
        parser.add_argument(
            f"--{name}-folder", metavar="DIR", help="its PNG files (default: JSON without .json)"
        )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="default: the number of cores"
    )
    parser.add_argument("--output", metavar="JSON", help="write the numbers there, too")
    args = parser.parse_args(arguments)
    try:
        truth = read_folder(args.truth, args.truth_folder)
        predictions = read_folder(args.results, args.results_folder)
        quality = evaluate_files(truth, predictions, workers=args.workers)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(panoptic_table(quality, truth))
    if args.output:
        names = dict(zip(truth.classes.ids, truth.classes.names, strict=True))
        classes = {
            names[i]: dict(zip(("PQ", "SQ", "RQ"), values, strict=True))
            for i, values in quality.per_category.items()
        }
        text = json.dumps({**quality.averages, "classes": classes}, indent=1)
        write_atomically(Path(args.output), lambda file: file.write(text.encode()))


if __name__ == "__main__":
    main()
