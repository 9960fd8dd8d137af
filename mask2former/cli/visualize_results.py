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
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from PIL import Image
from tqdm import tqdm

from ..data.image import read_image
from ..data.own_data import OWN_DATA, register_own_data
from ..evaluation.ground_truth import panoptic_classes
from ..structures import Classes
from ..tasks import TASKS
from ..utils.files import write_atomically
from ..visualization.result_files import ResultFile
from ..visualization.scenes import shared_colors, true_scene
from ..visualization.side_by_side import side_by_side

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


def classes_of(metadata: Metadata, task: str) -> Classes:
    """Return the classes of a data set for a task.

    Raises:
        ValueError: the metadata does not describe the classes of the task.
    """
    key = TASKS[task].class_names
    if metadata.get(key) is None:
        raise ValueError(f"data set {metadata.name!r} has no {key} in its metadata")
    things, stuff = panoptic_classes(metadata)
    if task == "panoptic" and things is not stuff:
        raise ValueError(
            f"data set {metadata.name!r} numbers things and stuff separately, so one class has "
            "several numbers: register it with mask2former.data.register_coco_panoptic"
        )
    classes = things if task == "instance" else stuff
    return replace(classes, ignore_label=metadata.get("ignore_label", 255))


def pairs(
    results: ResultFile, records: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
    """Yield the dataset dicts of images that have predictions, each with its predictions."""
    for record in records:
        entries = results.find(record)
        if entries is not None:
            yield record, entries


class Drawer:
    """Draws predictions beside ground truth, one image at a time.

    Args:
        results: the predictions.
        metadata: the metadata of the data set.
        threshold: the lowest score of instances or segments to draw.
    """

    def __init__(self, results: ResultFile, metadata: Metadata, threshold: float | None):
        self._results, self._threshold = results, threshold
        self._classes = classes_of(metadata, results.task)

    def draw(
        self, record: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
    ) -> tuple[Image.Image, str]:
        """Draw one image.

        Returns:
            The picture, and a summary of it in a few words.

        Raises:
            ValueError: a file cannot be read or is not usable; the message names the image.
        """
        path = record["file_name"]
        image = read_image(path, "RGB")
        record = {**record, "height": image.shape[0], "width": image.shape[1]}
        try:
            found = self._results.scene(
                entries,
                (image.shape[0], image.shape[1]),
                self._classes,
                threshold=self._threshold,
            )
            truth = true_scene(self._results.task, record, self._classes)
            colors, found_colors = shared_colors(truth, found)
            scenes = [("prediction", found, found_colors)]
            if truth is not None:
                scenes.insert(0, ("ground truth", truth, colors))
            pictures = [scene.draw(image, self._classes, c) for _, scene, c in scenes]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        captions = [f"{name}: {scene.summary(self._classes)}" for name, scene, _ in scenes]
        return side_by_side(pictures, captions), ", ".join(captions)


def run(args: argparse.Namespace) -> str:
    """Draw the pictures and return a summary.

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
    drawer = Drawer(results, MetadataCatalog.get(name), threshold)
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
    for number, (record, entries) in enumerate(tqdm(found, desc="Drawing"), start=1):
        picture, words = drawer.draw(record, entries)
        path = folder / f"{number:05d}_{Path(record['file_name']).stem}.jpg"
        write_atomically(path, partial(picture.save, format="JPEG", quality=92))
        tqdm.write(f"{path.name}  {words}")
    return f"{len(found)} pictures of {results.task} segmentation: {folder}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    try:
        print(run(args))
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
