"""Boundary AP of instance predictions (Cheng et al. 2021) from files in COCO's format.

    python -m mask2former.cli.evaluate_boundary_ap --truth annotations/instances_val2017.json \
        --results output/inference/coco_instances_results.json --workers 8
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.boundary import DILATION_RATIO, boundary_average_precision
from ..evaluation.tables import class_table
from ..utils.files import write_atomically


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the files, print the numbers; `arguments` by default those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--truth", required=True, metavar="JSON", help="instance annotations")
    parser.add_argument("--results", required=True, metavar="JSON", help="predictions, RLE masks")
    parser.add_argument(
        "--dilation-ratio",
        type=float,
        default=DILATION_RATIO,
        help="width of the boundary as a part of the image's diagonal (default: %(default)s)",
    )
    parser.add_argument("--max-dets", type=int, default=100, help="per image and class")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="default: the number of cores"
    )
    parser.add_argument("--output", metavar="JSON", help="write the numbers there, too")
    args = parser.parse_args(arguments)
    try:
        scores = boundary_average_precision(
            _read(args.truth),
            _read(args.results),
            dilation_ratio=args.dilation_ratio,
            max_dets_per_image=args.max_dets,
            workers=args.workers,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print("Boundary AP in percent:")
    averages = {name: value for name, value in scores.items() if not name.startswith("AP-")}
    print(class_table(list(averages), [list(averages.values())]))
    print(class_table(["class", "AP"], [(k[3:], v) for k, v in scores.items() if k[:3] == "AP-"]))
    if args.output:
        text = json.dumps(scores, indent=1)
        write_atomically(Path(args.output), lambda file: file.write(text.encode()))


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


if __name__ == "__main__":
    main()
