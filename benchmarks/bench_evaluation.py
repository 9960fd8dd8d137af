"""COCO evaluation against pycocotools, on a load like COCO val2017.

    python benchmarks/bench_evaluation.py --images 1000 --detections 100 --classes 80

Both sides get the same annotations and the same predictions, already in COCO's result format, and
must give the same twelve numbers. The second table is the run-length encoding of predicted masks.
"""

import argparse
import contextlib
import copy
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import hotcoco
import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.evaluation.average_precision import (
    load_ground_truth,
    match_results,
    summarize_coco,
)

HEIGHT, WIDTH = 480, 640


def _blob(rng: np.random.Generator) -> np.ndarray:
    """A wobbly outline (24, 2) with a size between 6 and 150 pixels, log-uniform."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = np.exp(rng.uniform(np.log(6), np.log(150)))
    radius = radius * (1 + 0.25 * np.sin(3 * angle + rng.uniform(0, 6)))
    center = rng.uniform(0, 1, 2) * (WIDTH, HEIGHT)
    return center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _rle(outline: np.ndarray) -> dict[str, Any]:
    outline = outline.clip(0, (WIDTH - 0.01, HEIGHT - 0.01))
    rle = mask_util.frPyObjects([outline.reshape(-1).tolist()], HEIGHT, WIDTH)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def make_load(images: int, detections: int, classes: int) -> tuple[dict, list[dict]]:
    """Annotations, seven an image on average, and predictions, two fifths of them near a truth."""
    rng = np.random.default_rng(0)
    annotations: list[dict] = []
    results: list[dict] = []
    for image_id in range(1, images + 1):
        objects = [(_blob(rng), int(rng.integers(classes)) + 1) for _ in range(rng.poisson(7))]
        for outline, category_id in objects:
            rle = _rle(outline)
            crowd = rng.uniform() < 0.02
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "iscrowd": int(crowd),
                    "area": float(mask_util.area(rle)),
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "segmentation": rle if crowd else [outline.reshape(-1).tolist()],
                }
            )
        for _ in range(detections):
            outline, category_id = _blob(rng), int(rng.integers(classes)) + 1
            if objects and rng.uniform() < 0.4:
                outline, category_id = objects[rng.integers(len(objects))]
                outline = outline + rng.standard_normal(2) * rng.choice([0.3, 2, 8])
            rle = _rle(outline)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "score": float(rng.uniform()),
                    "segmentation": rle,
                }
            )
    dataset = {
        "images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": f"class {c + 1}"} for c in range(classes)],
    }
    return dataset, results


def evaluate_with_pycocotools(dataset: dict, results: list[dict], task: str) -> np.ndarray:
    """The twelve numbers, by what Detectron2 runs without its compiled extension."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        results = copy.deepcopy(results)
        if task == "segm":
            for result in results:
                result.pop("bbox")
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def evaluate_with_ours(dataset: dict, results: list[dict], task: str) -> np.ndarray:
    """The twelve numbers, by what `COCOInstanceEvaluator` runs."""
    ids = [category["id"] for category in dataset["categories"]]
    arrays = match_results(
        load_ground_truth(dataset), results, task, [1, 10, 100], ids, image_ids=None
    )
    return summarize_coco(arrays["precision"], arrays["recall"])


def time_both(
    slow: Callable[[], Any], fast: Callable[[], Any], repeats: int
) -> tuple[float, float, Any, Any]:
    """Median seconds of two functions, run in turn, and what each returned."""
    times: tuple[list[float], list[float]] = ([], [])
    returned: list[Any] = [None, None]
    for _ in range(repeats):
        for i, function in enumerate((slow, fast)):
            start = time.perf_counter()
            returned[i] = function()
            times[i].append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1]), returned[0], returned[1]


def encode_with_pycocotools(masks: np.ndarray) -> list[dict]:
    """As Detectron2's evaluator does: a copy in column order for each mask."""
    return [mask_util.encode(np.array(m[:, :, None], order="F", dtype="uint8"))[0] for m in masks]


def encode_with_ours(masks: np.ndarray) -> list[dict]:
    """As `instances_to_coco_results` does."""
    return [hotcoco.mask.encode(mask) for mask in masks]


def main() -> None:
    """Run both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    dataset, results = make_load(args.images, args.detections, args.classes)
    print(
        f"{args.images} images, {len(dataset['annotations'])} objects, {len(results)} detections, "
        f"{args.classes} classes; medians of {args.repeats} runs"
    )
    row = "{:<22}{:>14}{:>10}{:>8}{:>20}"
    print(row.format("", "pycocotools s", "ours s", "ratio", "largest difference"))
    for task in ("bbox", "segm"):
        slow, fast, expected, ours = time_both(
            lambda task=task: evaluate_with_pycocotools(dataset, results, task),
            lambda task=task: evaluate_with_ours(dataset, results, task),
            args.repeats,
        )
        difference = f"{np.abs(expected - ours).max():.1e}"
        print(row.format(task, f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.1f}", difference))

    for count, height, width in ((100, 480, 640), (10, 3000, 4000)):
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:height, :width]
        masks = np.stack(
            [
                (y - cy * height) ** 2 + (x - cx * width) ** 2 < (r * height / 3) ** 2
                for cy, cx, r in rng.uniform(0, 1, (count, 3))
            ]
        )
        slow, fast, expected, ours = time_both(
            lambda masks=masks: encode_with_pycocotools(masks),
            lambda masks=masks: encode_with_ours(masks),
            args.repeats,
        )
        same = "none" if expected == ours else "DIFFERENT"
        name = f"encode {count} {width}x{height}"
        print(row.format(name, f"{slow:.3f}", f"{fast:.3f}", f"{slow / fast:.1f}", same))


if __name__ == "__main__":
    main()
