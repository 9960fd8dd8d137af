#!/usr/bin/env python
"""What ignored regions gain where a part of the objects is not annotated.

A share of the training objects loses its annotation: drawn at random, the smallest, which are what
people leave out, or the highest in their images, as where only the foreground was annotated. The
boxes around them, with a margin, become crowd regions. The same file
trains with MODEL.MASK_FORMER.IGNORE_REGIONS and without, when these objects are background; and the
file with all annotations trains for comparison. Each is evaluated on the complete validation set
after equally many iterations, once per seed, one run after the other. Runs that are there already
are not repeated.

    python benchmarks/bench_ignored_regions.py --data datasets/synthetic_shapes \\
        --output output/ignored
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from bench_training_options import last_metrics, summary
from tabulate import tabulate

from mask2former.data.own_folder import recognise_folder
from mask2former.tasks import TASKS

KEY = "MODEL.MASK_FORMER.IGNORE_REGIONS"
# Whether a part of the annotations is hidden, and the value of the key.
VARIANTS = {
    "hidden objects ignored": (True, True),
    "hidden objects as background": (True, False),
    "all objects annotated": (False, True),
}
METRIC = TASKS["instance"].metric
# What of an annotation and its image decides who is hidden first: the least value.
HIDDEN_FIRST: dict[str, Callable[[Any, Any, np.random.Generator], float]] = {
    "random": lambda annotation, image, generator: generator.random(),
    "smallest": lambda annotation, image, generator: annotation["area"],
    "highest": lambda annotation, image, generator: (
        (annotation["bbox"][1] + annotation["bbox"][3] / 2) / image["height"]
    ),
}


def main() -> None:
    """Train each variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1 / 3, help="of the objects to hide")
    parser.add_argument("--hide", choices=HIDDEN_FIRST, default="random")
    parser.add_argument("--margin", type=float, default=2, help="around their boxes, in pixels")
    add_run_flags(parser, VARIANTS)
    args = parser.parse_args()
    found: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        folders = {hidden: write_data(args, seed, hidden) for hidden in (True, False)}
        for variant in args.variants:
            hidden, key = VARIANTS[variant]
            run = Path(args.output, f"{variant.replace(' ', '_')}_{seed}")
            if not (run / "model_final.pth").exists():
                train(args, folders[hidden], run, KEY, str(key), "SEED", str(seed))
            value = last_metrics(run / "metrics.json")[METRIC]
            found.setdefault(variant, []).append(value)
            print(f"seed {seed}, {variant}: {value:.1f}", flush=True)
    rows = [(variant, summary(values)) for variant, values in found.items()]
    print(tabulate(rows, headers=["", METRIC], tablefmt="github"))


def add_run_flags(parser: argparse.ArgumentParser, variants: Iterable[str]) -> None:
    """Add the data, and what is common to the runs of all variants; see `train`."""
    parser.add_argument("--data", required=True, help="folder of COCO instance JSON, with splits")
    parser.add_argument("--model", default="quickstart/instance", help="as of `mask2former train`")
    parser.add_argument("--iterations", type=int, default=1800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=variants, default=list(variants))
    parser.add_argument("--output", required=True, help="folder of the data and the runs")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... of all runs"
    )


def write_data(args: argparse.Namespace, seed: int, hidden: bool) -> Path:
    """Write a folder for `mask2former train`, whose images are those of the data."""
    data: Any = recognise_folder(args.data, "instance")
    folder = Path(args.output, f"data_{'hidden' if hidden else 'whole'}_{seed}")
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, source in (("train", data.train), ("val", data.val)):
        content = json.loads(Path(source.json_file).read_text())
        if hidden and split == "train":
            hide(content, args.share, args.margin, np.random.default_rng(seed), args.hide)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        if not (folder / split).exists():
            (folder / split).symlink_to(Path(source.image_root).resolve())
    return folder


def hide(
    content: dict[str, Any], share: float, margin: float, generator: np.random.Generator, first: str
) -> None:
    """Turn a share of the objects of a COCO file into crowd regions, in place."""
    images = {image["id"]: image for image in content["images"]}
    objects = [a for a in content["annotations"] if not a.get("iscrowd")]
    keys = [HIDDEN_FIRST[first](a, images[a["image_id"]], generator) for a in objects]
    for i in np.argsort(keys, kind="stable")[: round(share * len(objects))]:
        annotation = objects[i]
        x, y, w, h = annotation["bbox"]
        image = images[annotation["image_id"]]
        x0, y0 = max(0, x - margin), max(0, y - margin)
        x1, y1 = min(image["width"], x + w + margin), min(image["height"], y + h + margin)
        annotation |= {
            "iscrowd": 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "segmentation": [],
        }


def train(args: argparse.Namespace, data: Path, run: Path, *opts: str) -> None:
    """Train in a process of its own, with one evaluation at the end."""
    command = [
        *(sys.executable, "-m", "mask2former", "train", "--data", str(data), "--task", "instance"),
        *("--model", args.model, "--iterations", str(args.iterations), "--output", str(run)),
        *("--opts", "TEST.EVAL_PERIOD", str(args.iterations), *opts, *args.opts),
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
