"""Draw predictions from a file of results beside the ground truth.

python -m mask2former.cli.visualize_results output/inference/coco_instances_results.json \\
    --dataset coco_2017_val --output pictures/
python -m mask2former.cli.visualize_results \\
    results.json --json val.json --images val/ --output pictures/
python -m mask2former.cli.visualize_results \\
    results.json --json panoptic.json --panoptic panoptic/ \\
    --images val/ --output pictures/
python -m mask2former.cli.visualize_results \\
    sem_seg_predictions.json --labels labels/ --images val/ \\
    --classes classes.txt --output pictures/

The file comes from evaluation or the demo: COCO instance results, COCO panoptic results with their
PNG files, or Detectron2's sem_seg_predictions.json. An object and its prediction (the same class,
and an IoU of at least 0.5) have the same colour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_runtime.commands import run_reporting_errors
from mask2former_runtime.files import write_atomically

from ..data.own_data import OWN_DATA, register_own_data
from ..report.comparison import Comparison
from ..tasks import TASKS
from ..utils.progress import ResultLines
from ..visualization.result_files import ResultFile

DEFAULT_THRESHOLD = 0.5


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULTS", help="JSON file of predictions")
    parser.add_argument(
        "--png-root",
        metavar="DIR",
        help="PNG files of the predictions (default: the folder named like RESULTS without .json)",
    )
    data = parser.add_argument_group("data set: --dataset, or files of your own")
    data.add_argument("--dataset", metavar="NAME", help="registered data set")
    for flag, metavar, text in (
        ("--json", "FILE", "COCO instance or panoptic annotations"),
        ("--images", "DIR", "images"),
        ("--panoptic", "DIR", "PNG files of panoptic annotations"),
        ("--labels", "DIR", "label maps, named like their images"),
        ("--classes", "FILE", "class names of label maps, one per line or a JSON list"),
    ):
        data.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        metavar="SCORE",
        help="leave out instances or segments below this score (default: "
        f"{DEFAULT_THRESHOLD} for instances, none for segments)",
    )
    parser.add_argument(
        "--num", type=int, default=20, metavar="N", help="images to draw (default: %(default)s)"
    )
    return parser


def dataset_name(args: argparse.Namespace) -> str:
    """Return the name of the data set, after registering the user's own files.

    Raises:
        ValueError: arguments are missing, or the data is not usable.
    """
    own = {key: getattr(args, key) for key in ("json", "images", "panoptic", "labels", "classes")}
    if args.dataset is not None:
        given = [f"--{key}" for key, value in own.items() if value is not None]
        if given:
            raise ValueError(f"--dataset and {' '.join(given)}: give one or the other")
        if args.dataset not in DatasetCatalog:
            raise ValueError(f"--dataset {args.dataset}: no data set of this name is registered")
        return args.dataset
    flags = {task.name: task.flags for task in TASKS.values()}
    flags["semantic"] += ("classes",)
    for task, keys in flags.items():
        if {key for key, value in own.items() if value is not None} == set(keys):
            data = OWN_DATA[task](*(own[key] for key in keys))
            return str(register_own_data(None, data, pixels=False).val)
    options = ["--dataset", *(" ".join(f"--{key}" for key in keys) for keys in flags.values())]
    raise ValueError(f"name the data set by one of: {'; '.join(options)}")


def pairs(
    results: ResultFile, records: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
    """Yield the dataset dicts of images that have predictions, each with its predictions."""
    for record in records:
        entries = results.find(record)
        if entries is not None:
            yield record, entries


def run(args: argparse.Namespace) -> int:
    """Draw the pictures and print a summary; return 0.

    Raises:
        ValueError: the arguments, the results or the data are not usable.
    """
    if args.num < 1:
        raise ValueError(f"--num {args.num}: at least one image is needed")
    results = ResultFile(args.results, args.png_root)
    threshold = args.confidence_threshold
    if threshold is None and results.task == "instance":
        threshold = DEFAULT_THRESHOLD
    elif threshold is not None and not results.has_scores:
        raise ValueError(
            f"--confidence-threshold: {args.results} has {results.task} predictions without scores"
        )
    name = dataset_name(args)
    comparison = Comparison(results, MetadataCatalog.get(name), threshold)
    records = DatasetCatalog.get(name)
    found = list(islice(pairs(results, records), args.num))
    if not found:
        raise ValueError(
            f"{args.results} has no predictions for the images of {name}: it has one for "
            f"{results.some_images()}, the data set's are like {records[0]['file_name']} "
            f"(id {records[0].get('image_id')!r})"
        )
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    with closing(ResultLines(len(found), "pictures")) as lines:
        for number, (record, entries) in enumerate(found, start=1):
            picture, words = comparison.draw(record, entries)
            path = folder / f"{number:05d}_{Path(record['file_name']).stem}.jpg"
            write_atomically(path, partial(picture.save, format="JPEG", quality=92))
            lines.add(f"{path.name}  {words}")
    print(f"{len(found)} pictures of {results.task} segmentation: {folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    return run_reporting_errors(parser.prog, run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
