#!/usr/bin/env python
"""What repeated images, copy-paste and weights of classes gain for a class in one image of 50.

Of a folder of COCO instances such as `datasets/synthetic_shapes`, images without one class are kept
for training, and so many of those with it that it is in one image of 50. Each variant trains on
these and is evaluated on the complete validation set after equally many iterations, once per seed,
one run after the other. Runs that are there already are not repeated.

    python -m mask2former.data.preparation.synthetic --output datasets/shapes --train 1500
    python benchmarks/bench_rare_classes.py --data datasets/shapes --output output/rare --seeds 3
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from bench_ignored_regions import add_run_flags, train
from bench_training_options import last_metrics, summary
from tabulate import tabulate

from mask2former.data.own_folder import recognise_folder

REPEATED = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler",
            "DATALOADER.REPEAT_THRESHOLD", "0.2")  # fmt: skip
ONCE = ("DATALOADER.SAMPLER_TRAIN", "TrainingSampler")
# The weight of the rare class is that of the square root of how much rarer it is.
VARIANTS = {
    "plain": ONCE,
    "repeated images": REPEATED,
    "repeated images, copy-paste": (*REPEATED, "INPUT.COPY_PASTE", "0.5"),
    "weight of the class": (*ONCE, "MODEL.MASK_FORMER.CLASS_LOSS_WEIGHTS", "WEIGHTS"),
}
_WEIGHT = 7.0


def main() -> None:
    """Train each variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rare", default="star", help="name of the class to make rare")
    parser.add_argument("--ratio", type=int, default=50, help="images per image with the class")
    add_run_flags(parser, VARIANTS)
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.seeds):
        folder, names = write_data(args, seed)
        weights = str([_WEIGHT if name == args.rare else 1.0 for name in names])
        for variant in args.variants:
            run = Path(args.output, f"{variant.replace(',', '').replace(' ', '_')}_{seed}")
            if not (run / "model_final.pth").exists():
                opts = [weights if word == "WEIGHTS" else word for word in VARIANTS[variant]]
                train(args, folder, run, *opts, "SEED", str(seed))
            metrics = last_metrics(run / "metrics.json")
            rare = metrics[f"segm/AP-{args.rare}"]
            common = float(np.mean([metrics[f"segm/AP-{n}"] for n in names if n != args.rare]))
            found.setdefault(variant, []).append((rare, common))
            print(f"seed {seed}, {variant}: rare {rare:.1f}, common {common:.1f}", flush=True)
    rows = [
        (variant, summary([r for r, _ in values]), summary([c for _, c in values]))
        for variant, values in found.items()
    ]
    headers = ["", f"AP of {args.rare}", "mean AP of the others"]
    print(tabulate(rows, headers=headers, tablefmt="github"))


def write_data(args: argparse.Namespace, seed: int) -> tuple[Path, list[str]]:
    """Write a folder for `mask2former train`; return it and the names of the classes."""
    data: Any = recognise_folder(args.data, "instance")
    folder = Path(args.output, f"data_{seed}")
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for split, source in (("train", data.train), ("val", data.val)):
        content = json.loads(Path(source.json_file).read_text())
        names = [category["name"] for category in content["categories"]]
        if split == "train":
            make_rare(content, args.rare, args.ratio, seed)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        if not (folder / split).exists():
            (folder / split).symlink_to(Path(source.image_root).resolve())
    return folder, names


def make_rare(content: dict[str, Any], name: str, ratio: int, seed: int) -> None:
    """Leave out images of a COCO file, in place, so that a class is in one of `ratio` images."""
    (rare,) = [c["id"] for c in content["categories"] if c["name"] == name]
    having = {a["image_id"] for a in content["annotations"] if a["category_id"] == rare}
    others = [image["id"] for image in content["images"] if image["id"] not in having]
    count = max(1, round(len(others) / (ratio - 1)))
    chosen = np.random.default_rng(seed).permutation(sorted(having))[:count].tolist()
    kept = {*others, *chosen}
    print(f"seed {seed}: {name} is in {len(chosen)} of {len(kept)} training images", flush=True)
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]


if __name__ == "__main__":
    main()
