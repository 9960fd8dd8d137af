"""Boundary AP against its definition, written out, and against another library."""

import contextlib
import copy
import io

import numpy as np
import pytest
from coco_sets import (
    METRICS,
    category_indices,
    made_up_annotations,
    perturbed,
    results_of,
    truth_masks,
)

from mask2former.evaluation.boundary import boundary_average_precision, mask_boundary


def eroded_once(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    height, width = mask.shape
    shifted = [padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    return np.logical_and.reduce(shifted)


def literal_boundary(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    inner = mask
    for _ in range(max(1, round(0.02 * (height**2 + width**2) ** 0.5))):
        inner = eroded_once(inner)
    return mask & ~inner


def masks_of_every_kind():
    rng = np.random.default_rng(0)
    for i in range(40):
        height, width = (int(n) for n in rng.integers(1, 160, 2))
        y, x = np.mgrid[:height, :width]
        cy, cx, ry, rx = rng.uniform(0, 1, 4) * (height, width, height, width) + (0, 0, 1, 1)
        blob = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        holes = rng.uniform(size=(height, width)) < 0.97
        yield (blob, blob & holes, holes, np.ones_like(blob), np.zeros_like(blob))[i % 5]


def test_boundary_is_what_erosion_takes_away():
    thick = 0
    for mask in masks_of_every_kind():
        boundary = mask_boundary(mask)
        assert boundary.dtype == np.uint8
        np.testing.assert_array_equal(boundary, literal_boundary(mask))
        thick += 0 < boundary.sum() < mask.sum()
    assert thick > 10


def literal_ap(data, predictions) -> np.ndarray:
    """(K, 10) AP by class and IoU threshold: the matching of COCO as its paper tells it."""
    truths, K = truth_masks(data), len(category_indices(data))
    ids = list(category_indices(data))
    ap = np.full((K, 10), np.nan)
    for k, t in np.ndindex(K, 10):
        threshold = np.linspace(0.5, 0.95, 10)[t]
        outcomes, number = [], 0
        for image_id, p in predictions.items():
            own = [(m, a) for m, a in truths[image_id] if a["category_id"] == ids[k]]
            own.sort(key=lambda pair: pair[1]["iscrowd"])
            number += sum(not a["iscrowd"] for _, a in own)
            taken = set()
            chosen = [i for i in range(len(p)) if p.pred_classes[i] == k]
            for i in sorted(chosen, key=lambda i: -p.scores[i]):
                mask = p.pred_masks[i].numpy()
                best, match = min(threshold, 1 - 1e-10), None
                for j, (truth, annotation) in enumerate(own):
                    if annotation["iscrowd"]:
                        if match is not None:
                            break  # rather an object than a crowd
                        overlap = (mask & truth).sum() / max(mask.sum(), 1)
                    elif j in taken:
                        continue
                    else:
                        edges = literal_boundary(mask), literal_boundary(truth)
                        overlap = min(
                            (a & b).sum() / max((a | b).sum(), 1) for a, b in (edges, (mask, truth))
                        )
                    if overlap >= best:
                        best, match = overlap, j
                if match is not None and own[match][1]["iscrowd"]:
                    continue
                if match is not None:
                    taken.add(match)
                outcomes.append((float(p.scores[i]), match is not None))
        if not number:
            continue
        outcomes.sort(key=lambda pair: -pair[0])
        right = np.cumsum([hit for _, hit in outcomes])
        recall = right / number
        precision = right / np.arange(1, len(right) + 1) if len(right) else right
        levels = np.linspace(0, 1, 101)
        ap[k, t] = np.mean([max(precision[recall >= level], default=0) for level in levels])
    return ap


@pytest.mark.parametrize("seed", range(2))
def test_equals_the_definition(seed):
    data = made_up_annotations(seed)
    predictions = perturbed(data, seed)
    before = copy.deepcopy(data)
    scores = boundary_average_precision(data, results_of(data, predictions), progress=False)
    assert data == before
    expected = literal_ap(data, predictions)
    assert 0 < scores["AP"] < 90
    assert scores["AP"] == pytest.approx(100 * np.nanmean(expected), abs=1e-9)
    assert scores["AP50"] == pytest.approx(100 * np.nanmean(expected[:, 0]), abs=1e-9)
    assert scores["AP75"] == pytest.approx(100 * np.nanmean(expected[:, 5]), abs=1e-9)
    for k, category_id in enumerate(category_indices(data)):
        value = scores[f"AP-class{category_id}"]
        assert value == pytest.approx(100 * expected[k].mean(), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_equals_another_library(seed):
    faster_coco_eval = pytest.importorskip("faster_coco_eval")
    data = made_up_annotations(seed)
    results = results_of(data, perturbed(data, seed))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = faster_coco_eval.COCO(copy.deepcopy(data))
        results_without_boxes = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        evaluation = faster_coco_eval.COCOeval_faster(
            truth, truth.loadRes(results_without_boxes), "boundary"
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = boundary_average_precision(data, results, progress=False, workers=1 + (seed == 0))
    for name, value in zip(METRICS, evaluation.stats[:6], strict=True):
        value = 100 * value if value >= 0 else np.nan
        assert scores[name] == pytest.approx(value, abs=1e-9, nan_ok=True)


def test_ground_truth_against_itself_and_without_predictions():
    data = made_up_annotations(0)
    data["annotations"][0]["id"] = 0
    results = [{**a, "score": 1} for a in data["annotations"] if not a["iscrowd"]]
    scores = boundary_average_precision(data, results, progress=False)
    assert scores["AP"] == pytest.approx(100) and np.isnan(scores["AP-class90"])
    assert boundary_average_precision(data, [], progress=False)["AP"] == 0


def test_mistakes_are_named():
    data = made_up_annotations(0)
    results = results_of(data, perturbed(data, 0))
    with pytest.raises(ValueError, match=r"1 predictions are of categories .* category_id 2"):
        boundary_average_precision(data, [{**results[0], "category_id": 2}])
    with pytest.raises(ValueError, match="1 of 1 predictions have no segmentation"):
        boundary_average_precision(data, [{**results[0], "segmentation": None}])
