#!/usr/bin/env python
"""Mask AP on a user's own data after equal time of training: this project against YOLO11n-seg.

Both train on the same images with the same threads, one after the other, for so many minutes with
the schedule fitted to them, and from random weights unless ``--pretrained`` lets this project start
from its ImageNet encoder. Each has its own defaults otherwise. The masks that they predict at the
size of the files are evaluated by pycocotools. YOLO is a network of ``ultralytics``
(``pip install ultralytics``, in another environment if you like: ``--yolo-python``).

    python benchmarks/bench_own_data.py --data my_data --minutes 15 [--seed 0] [--yolo-size 256]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

METRICS = ("AP", "AP50", "AP75")


def main() -> None:
    """Train, evaluate and print one row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of COCO instance JSON, with splits")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrained", action="store_true", help="this project: from ImageNet")
    parser.add_argument("--only", choices=("ours", "yolo"))
    parser.add_argument("--yolo-size", type=int, default=256, help="side of YOLO's images")
    parser.add_argument("--yolo-python", default=sys.executable, help="has ultralytics")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--train-yolo", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train_yolo:
        train_yolo(args, Path(args.train_yolo[0]), Path(args.train_yolo[1]))
        return

    from mask2former.data.own_folder import recognise_folder

    found = recognise_folder(args.data, "instance")
    with tempfile.TemporaryDirectory() as folder:
        for name, run in (("ours", run_ours), ("yolo", run_yolo)):
            if args.only in (None, name):
                results = run(args, found, Path(folder, name))
                print(name, mask_ap(found.val.json_file, results), flush=True)


def environment(args: argparse.Namespace) -> dict[str, str]:
    """Return the environment of a training process."""
    return {**os.environ, "OMP_NUM_THREADS": str(args.threads)}


def run_ours(args: argparse.Namespace, found: Any, output: Path) -> list[dict[str, Any]]:
    """Train with `mask2former train` and return the instances of the last evaluation."""
    weights = [] if args.pretrained else ["MODEL.WEIGHTS", ""]
    command = [
        *(sys.executable, "-m", "mask2former"),
        *("train", "--data", args.data, "--task", "instance", "--output", str(output)),
        *("--time-budget", f"{args.minutes}m", "--opts", "SEED", str(args.seed), *weights),
    ]
    subprocess.run(command, env=environment(args), check=True, stdout=sys.stderr)
    return json.loads((output / "inference" / "coco_instances_results.json").read_text())


def run_yolo(args: argparse.Namespace, found: Any, output: Path) -> list[dict[str, Any]]:
    """Train YOLO11n-seg in a process of its own and return its instances."""
    from mask2former.data.formats.convert import convert_data

    data = output / "data"
    for note in convert_data({"train": found.train, "val": found.val}, data, "yolo"):
        print(f"YOLO's format: {note}", file=sys.stderr)
    command = [args.yolo_python, *sys.argv, "--train-yolo", str(data), str(output / "run")]
    subprocess.run(command, env=environment(args), check=True, stdout=sys.stderr)
    truth = json.loads(Path(found.val.json_file).read_text())
    image_ids = {Path(image["file_name"]).name: image["id"] for image in truth["images"]}
    category_ids = [category["id"] for category in truth["categories"]]
    results = json.loads((output / "run" / "results.json").read_text())
    return [
        {
            **result,
            "image_id": image_ids[result["image_id"]],
            "category_id": category_ids[result["category_id"]],
        }
        for result in results
    ]


def train_yolo(args: argparse.Namespace, data: Path, output: Path) -> None:
    """Train in this process, and write the instances on the validation images."""
    import torch
    from pycocotools import mask as rle
    from ultralytics import YOLO

    torch.set_num_threads(args.threads)
    YOLO("yolo11n-seg.yaml").train(
        data=str(data / "data.yaml"), time=args.minutes / 60, epochs=1000, patience=0,
        imgsz=args.yolo_size, seed=args.seed, device="cpu", workers=1, plots=False,
        project=str(output), name="train",
    )  # fmt: skip
    model = YOLO(output / "train" / "weights" / "best.pt")
    results = []
    for path in sorted((data / "images" / "val").iterdir()):
        found = model.predict(
            str(path), imgsz=args.yolo_size, conf=0.001, max_det=100, retina_masks=True,
            verbose=False,
        )[0]  # fmt: skip
        if found.masks is None:
            continue
        masks = np.asfortranarray(found.masks.data.numpy().astype(np.uint8).transpose(1, 2, 0))
        for encoded, score, kind in zip(
            rle.encode(masks), found.boxes.conf.tolist(), found.boxes.cls.tolist(), strict=True
        ):
            results.append({
                "image_id": path.name, "category_id": int(kind), "score": score,
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
            })  # fmt: skip
    (output / "results.json").write_text(json.dumps(results))


def mask_ap(json_file: str, results: list[dict[str, Any]]) -> str:
    """Return the mask AP that pycocotools computes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = zip(METRICS, evaluation.stats, strict=False)
    return ", ".join(f"{name} {100 * value:.1f}" for name, value in values)


if __name__ == "__main__":
    main()
