"""Evaluation against pycocotools, panopticapi and Detectron2, on loads like COCO and ADE20K.

    python benchmarks/bench_evaluation.py --images 1000 --detections 100 --classes 80 --maps 200

Both sides get the same ground truth and the same predictions, and must give the same numbers. The
first rows are AP of predictions that are already in COCO's result format, the next ones the
run-length encoding of masks. The second table is all of panoptic and semantic evaluation, from the
outputs of a model to the numbers. Its panoptic rows need `panopticapi` (on PyPI: panopticapi-lite),
which uses all cores, while ours uses one.
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator, SemSegEvaluator
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.evaluation import PanopticEvaluator, SemanticEvaluator
from mask2former.evaluation.average_precision import (
    load_ground_truth,
    match_results,
    summarize_coco,
)

HEIGHT, WIDTH = 480, 640
ROW = "{:<44}{:>14}{:>10}{:>8}{:>20}"


def _blob(rng: np.random.Generator) -> np.ndarray:
    """Draw a wobbly outline (24, 2) whose size is log-uniform between 6 and 150 pixels."""
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
    """Make seven annotations per image on average, and predictions, two fifths near an object."""
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
    """Compute the twelve numbers with what Detectron2 runs without its compiled extension."""
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
    """Compute the twelve numbers with what `COCOInstanceEvaluator` runs."""
    ids = [category["id"] for category in dataset["categories"]]
    truth = load_ground_truth(dataset)
    arrays = match_results(truth, results, task, [1, 10, 100], ids, image_ids=None)
    return summarize_coco(arrays["precision"], arrays["recall"])


def time_both(
    slow: Callable[[], Any], fast: Callable[[], Any], repeats: int
) -> tuple[float, float, Any, Any]:
    """Return the median seconds of two functions, run in turn, and what each returned."""
    times: tuple[list[float], list[float]] = ([], [])
    returned: list[Any] = [None, None]
    for _ in range(repeats):
        for i, function in enumerate((slow, fast)):
            start = time.perf_counter()
            returned[i] = function()
            times[i].append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1]), returned[0], returned[1]


def print_row(label: str, slow: float, fast: float, difference: str) -> None:
    """Print the seconds of both sides, their ratio and how far their results differ."""
    print(ROW.format(label, f"{slow:.3f}", f"{fast:.3f}", f"{slow / fast:.1f}", difference))


def encode_with_pycocotools(masks: np.ndarray) -> list[dict]:
    """Encode as Detectron2's evaluator does, with a copy in column order per mask."""
    return [mask_util.encode(np.array(m[:, :, None], order="F", dtype="uint8"))[0] for m in masks]


def encode_with_ours(masks: np.ndarray) -> list[dict]:
    """Encode as `instances_to_coco_results` does."""
    return [hotcoco.mask.encode(mask) for mask in masks]


def _segments(rng: np.random.Generator, height: int, width: int, number: int) -> np.ndarray:
    """Number the pixels (H, W) by segments with wobbly outlines, counting from 1."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y += 6 * np.sin(x / 17)
    x += 6 * np.sin(y / 13)
    cy, cx = rng.uniform(0, height, number), rng.uniform(0, width, number)
    distance = [(y - a) ** 2 + (x - b) ** 2 for a, b in zip(cy, cx, strict=True)]
    return np.argmin(distance, axis=0).astype(np.int32) + 1


def make_maps(folder: Path, images: int, classes: int) -> str:
    """Write ground truth with 12 segments per image, and return the name of the data set."""
    rng = np.random.default_rng(0)
    names = [f"class {k}" for k in range(classes)]
    things = range(classes // 2)
    content: dict[str, list] = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": k, "name": name, "isthing": int(k in things)} for k, name in enumerate(names)
        ],
    }
    records = []
    for i in range(images):
        ids = _segments(rng, HEIGHT, WIDTH, 12)
        kinds = rng.choice(classes, 13, replace=False)
        png, labels = f"{i:06d}.png", f"{i:06d}_labels.png"
        Image.fromarray(np.stack([ids * 20, ids, 0 * ids], -1).astype(np.uint8)).save(folder / png)
        Image.fromarray(kinds[ids].astype(np.uint8)).save(folder / labels)
        segments = [
            {
                "id": s * 20 % 256 + 256 * s,
                "category_id": int(kinds[s]),
                "area": int((ids == s).sum()),
                "iscrowd": 0,
            }
            for s in np.unique(ids).tolist()
        ]
        image = {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH}
        content["images"].append(image)
        content["annotations"].append({"image_id": i, "file_name": png, "segments_info": segments})
        record = {"file_name": str(folder / f"{i:06d}.jpg"), "image_id": i}
        records.append({**record, "sem_seg_file_name": str(folder / labels)})
    (folder / "panoptic.json").write_text(json.dumps(content))
    DatasetCatalog.register("bench_evaluation", lambda: records)
    MetadataCatalog.get("bench_evaluation").set(
        panoptic_json=str(folder / "panoptic.json"),
        panoptic_root=str(folder),
        stuff_classes=names,
        thing_dataset_id_to_contiguous_id={k: k for k in things},
        stuff_dataset_id_to_contiguous_id={k: k for k in range(classes)},
        ignore_label=255,
    )
    return "bench_evaluation"


def make_outputs(name: str, classes: int) -> list[tuple[dict, dict]]:
    """Make what a model gets and returns: the ground truth moved by a few pixels.

    All images have the same semantic scores in the same memory: 150 classes of 200 images would
    take 37 GB.
    """
    rng = np.random.default_rng(1)
    annotations = json.loads(Path(MetadataCatalog.get(name).panoptic_json).read_text())
    scores = torch.from_numpy(rng.uniform(size=(classes, HEIGHT, WIDTH)).astype(np.float32))
    outputs = []
    pairs = zip(DatasetCatalog.get(name), annotations["annotations"], strict=True)
    for record, annotation in pairs:
        path = Path(MetadataCatalog.get(name).panoptic_root, annotation["file_name"])
        ids = np.asarray(Image.open(path)).astype(np.int32)[..., 1]
        moved = torch.from_numpy(np.roll(ids, rng.integers(-9, 10, 2), (0, 1)))
        segments = [
            {
                "id": s["id"] // 256,
                "category_id": s["category_id"],
                "isthing": s["category_id"] < classes // 2,
            }
            for s in annotation["segments_info"]
        ]
        outputs.append((record, {"panoptic_seg": (moved, segments), "sem_seg": scores}))
    return outputs


def evaluate(
    make: Callable[[], DatasetEvaluator], outputs: list[tuple[dict, dict]]
) -> dict[str, float]:
    """Make an evaluator, run it, and return its numbers."""
    evaluator = make()
    evaluator.reset()
    for inputs, output in copy.deepcopy([(i, {**o, "sem_seg": None}) for i, o in outputs]):
        output["sem_seg"] = outputs[0][1]["sem_seg"]
        evaluator.process([inputs], [output])
    results = evaluator.evaluate()
    assert results is not None
    return next(iter(results.values()))


def read_labels(path: str, dtype: type) -> np.ndarray:
    """Read label maps for Detectron2, whose own function fails with NumPy 2."""
    return np.asarray(Image.open(path)).astype(dtype)


def compare_maps(images: int, classes: int, repeats: int) -> None:
    """Print the second table."""
    logging.disable(logging.WARNING)
    print(f"\n{images} images {WIDTH}x{HEIGHT}, {classes} classes; medians of {repeats} runs")
    print(ROW.format("", "Detectron2 s", "ours s", "ratio", "largest difference"))
    with tempfile.TemporaryDirectory() as temporary:
        name = make_maps(Path(temporary), images, classes)
        outputs = make_outputs(name, classes)
        theirs_dir, ours_dir = f"{temporary}/theirs", f"{temporary}/ours"
        semantic = partial(SemSegEvaluator, name, sem_seg_loading_fn=read_labels)
        panoptic = partial(COCOPanopticEvaluator, name)
        our_semantic = partial(SemanticEvaluator, name)
        our_panoptic = partial(PanopticEvaluator, name)
        comparisons: list[tuple[str, Callable, Callable]] = [
            (
                "mIoU, predictions written",
                partial(semantic, output_dir=theirs_dir),
                partial(our_semantic, ours_dir),
            ),
            ("mIoU", semantic, our_semantic),
        ]
        if importlib.util.find_spec("panopticapi"):
            comparisons += [
                (
                    "PQ, predictions written (theirs: JSON only)",
                    partial(panoptic, theirs_dir),
                    partial(our_panoptic, ours_dir),
                ),
                ("PQ", panoptic, our_panoptic),
            ]
        for label, theirs, ours in comparisons:
            with contextlib.redirect_stdout(io.StringIO()):
                slow, fast, expected, found = time_both(
                    partial(evaluate, theirs, outputs), partial(evaluate, ours, outputs), repeats
                )
            difference = np.nanmax([abs(expected[key] - value) for key, value in found.items()])
            print_row(label, slow, fast, f"{difference:.1e}")
        start = time.perf_counter()
        for _, output in outputs:
            output["sem_seg"].argmax(0)
        seconds = time.perf_counter() - start
        print(f"part of mIoU: finding the best of {classes} scores: {seconds:.2f} s")


def main() -> None:
    """Run both sides and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--maps", type=int, default=200, help="images of panoptic and semantic")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    dataset, results = make_load(args.images, args.detections, args.classes)
    print(
        f"{args.images} images, {len(dataset['annotations'])} objects, {len(results)} detections, "
        f"{args.classes} classes; medians of {args.repeats} runs"
    )
    print(ROW.format("", "pycocotools s", "ours s", "ratio", "largest difference"))
    for task in ("bbox", "segm"):
        slow, fast, expected, ours = time_both(
            partial(evaluate_with_pycocotools, dataset, results, task),
            partial(evaluate_with_ours, dataset, results, task),
            args.repeats,
        )
        print_row(task, slow, fast, f"{np.abs(expected - ours).max():.1e}")

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
            partial(encode_with_pycocotools, masks), partial(encode_with_ours, masks), args.repeats
        )
        difference = "none" if expected == ours else "DIFFERENT"
        print_row(f"encode {count} masks {width}x{height}", slow, fast, difference)
    compare_maps(args.maps, 133, args.repeats)


if __name__ == "__main__":
    main()
