"""The numbers are pycocotools', on real and on made-up annotations."""

import contextlib
import copy
import io
import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
from coco_sets import (
    METRICS,
    category_indices,
    encode,
    evaluate,
    made_up_annotations,
    perturbed,
)
from detectron2.structures import Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.evaluation import COCOInstanceEvaluator, summarize_coco

REAL = [
    "coco_permissive/annotations/instances_val2017.json",
    "food/annotations/instances_val.json",
]


def oracle(data: dict, predictions: dict[int, Instances], task: str) -> COCOeval:
    """pycocotools, with results written independently of the code under test."""
    ids = sorted(c["id"] for c in data["categories"])
    results = []
    for image_id, instances in predictions.items():
        for k in range(len(instances)):
            rle = encode(instances.pred_masks[k].numpy())
            result = {
                "image_id": image_id,
                "category_id": ids[int(instances.pred_classes[k])],
                "score": float(instances.scores[k]),
                "segmentation": rle,
            }
            if task == "bbox":
                result["bbox"] = mask_util.toBbox(rle).tolist()
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_same(results: dict, data: dict, predictions: dict) -> None:
    for task in ("bbox", "segm"):
        expected = oracle(data, predictions, task)
        for metric, value in zip(METRICS, expected.stats[:6], strict=True):
            value = 100 * value if value >= 0 else np.nan
            np.testing.assert_allclose(results[task][metric], value, rtol=0, atol=1e-9)
        for k, category_id in enumerate(sorted(category_indices(data))):
            name = next(c["name"] for c in data["categories"] if c["id"] == category_id)
            precision = expected.eval["precision"][:, :, k, 0, -1]
            precision = precision[precision > -1]
            value = 100 * precision.mean() if precision.size else np.nan
            np.testing.assert_allclose(results[task][f"AP-{name}"], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_on_made_up_annotations(register_coco, seed):
    data = made_up_annotations(seed)
    predictions = perturbed(data, seed)
    assert sum(map(len, predictions.values())) > 30
    for entry in (data, *data["images"], *data["annotations"]):
        entry["license"] = None  # some annotation tools write nulls
    results = evaluate(COCOInstanceEvaluator(register_coco(data)), predictions)
    assert 0 < results["segm"]["AP"] < 100
    assert_same(results, data, predictions)


@pytest.mark.parametrize("path", REAL)
def test_equals_pycocotools_on_real_annotations(register_coco, shared, path):
    data = json.loads((shared / "data" / path).read_text())
    data["images"] = data["images"][:40]
    kept = {image["id"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
    predictions = perturbed(data, 0)
    results = evaluate(COCOInstanceEvaluator(register_coco(data)), predictions)
    assert_same(results, data, predictions)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_all_twelve_numbers_equal_pycocotools_own_summary(register_coco, task, caplog):
    data = made_up_annotations(1)
    predictions = perturbed(data, 1)
    expected = oracle(data, predictions, task)
    ours = summarize_coco(expected.eval["precision"], expected.eval["recall"])
    np.testing.assert_allclose(ours, expected.stats, rtol=0, atol=1e-12)
    # and the recalls that are logged are those of our own matching
    with caplog.at_level(logging.INFO, logger="mask2former.evaluation.coco"):
        evaluate(COCOInstanceEvaluator(register_coco(data)), predictions)
    labels = ["AR@1", "AR@10", "AR@100", "ARs", "ARm", "ARl"]
    line = ", ".join(
        f"{label} {100 * v if v >= 0 else np.nan:.2f}"
        for label, v in zip(labels, expected.stats[6:], strict=True)
    )
    assert f"Average recall for {task}: {line}" in caplog.text
