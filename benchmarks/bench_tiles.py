#!/usr/bin/env python
"""Accuracy on a mosaic of validation images: tile by tile, as one image, and of the parts alone.

The images of a validation set, all of one size, become one image of rows and columns. Its objects
are known, and none crosses the border of a part, but tiles lie across the borders. "Small" is the
share of the objects of less than 16 x 16 pixels that are found with an IoU of at least 0.5.

    python benchmarks/bench_tiles.py --model output/mine --data my_data [--shrink 4]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from mask2former import Mask2Former
from mask2former.data.formats.writers.objects import mask_of
from mask2former.data.own_folder import recognise_folder

THRESHOLD = 0.05  # of scores
SMALL = 16 * 16  # pixels
Result = dict[str, Any]


def main() -> None:
    """Predict in the three ways and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="for instances, trained on the data")
    parser.add_argument("--data", required=True, help="folder of COCO instance JSON")
    parser.add_argument("--shrink", type=int, default=1, help="first make images so much smaller")
    parser.add_argument("--tile", type=int, help="by default the size of an image")
    parser.add_argument("--overlap", type=float, default=0.2)
    args = parser.parse_args()
    val = recognise_folder(args.data, "instance").val
    truth = json.loads(Path(val.json_file).read_text())
    parts = {
        image["id"]: Image.open(Path(val.image_root, image["file_name"])).convert("RGB")
        for image in truth["images"]
    }
    size = next(iter(parts.values())).size
    parts = {i: image for i, image in parts.items() if image.size == size}
    width, height = (side // args.shrink for side in size)
    parts = {i: image.resize((width, height)) for i, image in parts.items()}
    columns = math.ceil(math.sqrt(len(parts)))
    whole = np.zeros((math.ceil(len(parts) / columns) * height, columns * width, 3), np.uint8)
    corners = {i: (n // columns * height, n % columns * width) for n, i in enumerate(sorted(parts))}
    for i, (top, left) in corners.items():
        whole[top : top + height, left : left + width] = parts[i]
    objects = {i: truth_of(truth, i, (height, width)) for i in parts}
    in_whole = [
        moved(annotation, corners[i], whole.shape[:2]) for i in parts for annotation in objects[i]
    ]
    model = Mask2Former.from_pretrained(args.model, task="instance")
    rows = []

    start = time.perf_counter()
    alone = [
        result
        for i, image in parts.items()
        for result in model.predict(image, threshold=THRESHOLD).to_coco(i)
    ]
    seconds = time.perf_counter() - start
    everything = [annotation for i in parts for annotation in objects[i]]
    rows.append(("parts alone", *accuracy(truth, everything, alone), seconds))
    options: dict[str, Mapping[str, Any]] = {
        "tiles": {"tile": args.tile or max(width, height), "overlap": args.overlap},
        "as one image": {},
    }
    for name, option in options.items():
        start = time.perf_counter()
        found = model.predict(whole, threshold=THRESHOLD, **option).to_coco(0)
        seconds = time.perf_counter() - start
        rows.append((name, *accuracy(truth, in_whole, found), seconds))
    small = sum(rle.area(annotation["segmentation"]) < SMALL for annotation in in_whole)
    print(
        f"{len(parts)} images of {width} x {height} pixels, {len(in_whole)} objects, of which "
        f"{small} are small"
    )
    headers = ["", "mask AP", "AP50", "small, %", "found", "seconds"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".1f"))


def truth_of(truth: Mapping[str, Any], image_id: int, size: tuple[int, int]) -> list[Result]:
    """Return the objects of an image, which is made smaller, with their masks as RLE."""
    image = next(image for image in truth["images"] if image["id"] == image_id)
    objects = []
    for annotation in truth["annotations"]:
        if annotation["image_id"] != image_id or annotation.get("iscrowd"):
            continue
        mask = Image.fromarray(mask_of(annotation, image).astype(np.uint8))
        small = np.asfortranarray(mask.resize(size[::-1], Image.Resampling.NEAREST))
        objects.append({**annotation, "segmentation": rle.encode(small)})
    return objects


def moved(annotation: Result, corner: tuple[int, int], size: tuple[int, ...]) -> Result:
    """Return an object of a part as one of the mosaic."""
    mask = rle.decode(annotation["segmentation"])
    top, left = corner
    canvas = np.zeros(size, np.uint8, order="F")
    canvas[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return {**annotation, "image_id": 0, "segmentation": rle.encode(canvas)}


def accuracy(
    truth: Mapping[str, Any], objects: Sequence[Result], results: Sequence[Result]
) -> tuple[float, float, float, int]:
    """Return AP, AP50, and recall of small objects in percent, and the number of results."""
    annotations = [
        {**each, "id": n, "area": float(rle.area(each["segmentation"])), "iscrowd": 0,
         "bbox": rle.toBbox(each["segmentation"]).tolist()}
        for n, each in enumerate(objects, start=1)
    ]  # fmt: skip
    sizes = {each["image_id"]: each["segmentation"]["size"] for each in annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()],
            "annotations": annotations,
            "categories": truth["categories"],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(list(results)), "segm")
        evaluation.params.areaRng = [[0, 1e10], [0, SMALL]]
        evaluation.params.areaRngLbl = ["all", "small"]
        evaluation.params.maxDets = [len(results)]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    return (
        100 * mean(precision[:, :, :, 0]),
        100 * mean(precision[0, :, :, 0]),
        100 * mean(recall[0, :, 1]),
        len(results),
    )


def mean(values: np.ndarray) -> float:
    """Return the mean of what is defined."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


if __name__ == "__main__":
    main()
