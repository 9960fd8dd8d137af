"""Kinds of errors, confusion and calibration: by hand, and by a plain restatement of the rules."""

import contextlib
import io
from collections import Counter

import coco_sets
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from coco_sets import encode, made_up_annotations, perturbed
from detectron2.structures import Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.evaluation import COCOInstanceEvaluator
from mask2former.evaluation.instance_analysis import CONFIDENT, ERROR_KINDS, InstanceAnalysis

SIZE = 100
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 7, "name": "cow"}]


def square(x: int, y: int, side: int = 20, width: int | None = None) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + side, x : x + (width or side)] = True
    return mask


def truth_of(images: list[list[tuple[np.ndarray, int]]]) -> dict:
    """Annotations from (mask, category id) of each image."""
    annotations = []
    for image_id, objects in enumerate(images, start=1):
        for mask, category in objects:
            rle = encode(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "iscrowd": 0,
                    "area": float(mask.sum()),
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "segmentation": rle,
                }
            )
    return {
        "images": [
            {"id": i, "height": SIZE, "width": SIZE, "file_name": f"{i}.png"}
            for i in range(1, len(images) + 1)
        ],
        "annotations": annotations,
        "categories": CATEGORIES,
    }


def instances_of(found: list[tuple[np.ndarray, int, float]]) -> Instances:
    """Predictions from (mask, class index, score)."""
    instances = Instances((SIZE, SIZE))
    masks = [mask for mask, _, _ in found]
    instances.pred_masks = torch.as_tensor(np.array(masks).reshape(-1, SIZE, SIZE))
    instances.pred_classes = torch.tensor([c for _, c, _ in found], dtype=torch.int64)
    instances.scores = torch.tensor([s for _, _, s in found])
    return instances


@pytest.fixture
def analyze(register_coco):
    def _analyze(data: dict, predictions: dict[int, Instances]) -> InstanceAnalysis:
        evaluator = COCOInstanceEvaluator(register_coco(data))
        evaluator.reset()
        for image in data["images"]:
            entry = {"image_id": image["id"], "file_name": image["file_name"]}
            evaluator.process([entry], [{"instances": predictions[image["id"]]}])
        assert evaluator.analysis() is None
        evaluator.evaluate()
        return evaluator.analysis()

    return _analyze


OBJECT = (square(10, 10), 1)
HIT = (square(10, 10), 0, 0.9)
BY_HAND = {
    # what is predicted beside the other, perfect prediction -> the errors
    "perfect": ([HIT], {}),
    "shifted by half of the side": ([(square(20, 10), 0, 0.9)], {"Loc": 1}),
    "another class": ([(square(10, 10), 1, 0.9)], {"Cls": 1}),
    "shifted, of another class": ([(square(20, 10), 1, 0.9)], {"Both": 1, "Miss": 1}),
    "twice": ([HIT, (square(10, 10), 0, 0.8)], {"Dupe": 1}),
    "nothing there": ([HIT, (square(10, 70), 0, 0.6)], {"Bkg": 1}),
    "nothing predicted": ([], {"Miss": 1}),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_kinds_of_errors_by_hand(case, analyze):
    found, expected = BY_HAND[case]
    other = (square(60, 60), 3), (square(60, 60), 1, 0.95)
    data = truth_of([[OBJECT, other[0]]])
    analysis = analyze(data, {1: instances_of([*found, other[1]])})
    assert list(analysis.errors) == list(ERROR_KINDS)
    assert {k: e.count for k, e in analysis.errors.items() if e.count} == expected
    assert {k: e.confident for k, e in analysis.errors.items() if e.confident} == expected
    for kind, error in analysis.errors.items():
        assert error.cost >= 0
        if not error.count:
            assert error.cost == 0, kind
    if case in ("shifted by half of the side", "another class"):
        # One of two classes has no right prediction: to correct that one error adds half.
        assert sum(e.cost for e in analysis.errors.values()) == pytest.approx(0.5)


def test_cost_of_missed_objects(analyze):
    data = truth_of([[OBJECT, (square(60, 60), 1)]])
    analysis = analyze(data, {1: instances_of([HIT])})
    # Precision is 1 at the 51 levels of recall up to a half, of 101.
    assert analysis.average_precision(0, iou=0) == pytest.approx(51 / 101)
    assert analysis.errors["Miss"].cost == pytest.approx(50 / 101)


def brute_force_errors(data: dict, predictions: dict[int, Instances], lowest: float) -> Counter:
    """TIDE's kinds of errors, by its section 2.2, without crowds."""
    ids = sorted(c["id"] for c in data["categories"])
    truth, errors = coco_sets.truth_masks(data), Counter()
    for image_id, found in predictions.items():
        objects = [(mask, a["category_id"]) for mask, a in truth[image_id]]
        descending = np.argsort(-found.scores.numpy(), kind="stable").tolist()
        order = [i for i in descending if found.scores[i] >= lowest]
        masks = [found.pred_masks[i].numpy() for i in order]
        classes = [ids[int(found.pred_classes[i])] for i in order]
        iou = np.array(
            [[(m & o).sum() / max(1, (m | o).sum()) for o, _ in objects] for m in masks]
        ).reshape(len(masks), len(objects))
        taken, wrong = set(), []
        for d, category in enumerate(classes):  # COCO's greedy matching at IoU 0.5
            free = [
                g
                for g, (_, c) in enumerate(objects)
                if c == category and g not in taken and iou[d, g] >= 0.5
            ]
            if free:
                taken.add(max(free, key=lambda g: (iou[d, g], g)))
            else:
                wrong.append(d)
        explained = set(taken)
        for d in wrong:
            same = {g: iou[d, g] for g, (_, c) in enumerate(objects) if c == classes[d]}
            other = {g: iou[d, g] for g, (_, c) in enumerate(objects) if c != classes[d]}
            best_same, best_other = max(same.values(), default=0), max(other.values(), default=0)
            if 0.1 <= best_same < 0.5:
                kind = "Loc"
                explained.add(max(same, key=same.__getitem__))
            elif best_other >= 0.5:
                kind = "Cls"
                explained.add(max(other, key=other.__getitem__))
            elif best_same >= 0.5:
                kind = "Dupe"
            elif max(best_same, best_other) <= 0.1:
                kind = "Bkg"
            else:
                kind = "Both"
            errors[kind] += 1
        errors["Miss"] += len(objects) - len(explained)
    return errors


@pytest.mark.parametrize("seed", range(5))
def test_kinds_of_errors_are_those_of_tide(seed, analyze):
    data = made_up_annotations(seed)
    data["annotations"] = [{**a, "iscrowd": 0} for a in data["annotations"]]
    predictions = perturbed(data, seed)
    errors = analyze(data, predictions).errors
    for lowest, attribute in ((0.0, "count"), (CONFIDENT, "confident")):
        expected = brute_force_errors(data, predictions, lowest)
        assert {k: getattr(e, attribute) for k, e in errors.items()} == {
            kind: expected[kind] for kind in ERROR_KINDS
        }


def test_precision_is_that_of_pycocotools(analyze):
    data = made_up_annotations(3)
    predictions = perturbed(data, 3)
    analysis = analyze(data, predictions)
    truth = COCO()
    truth.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = [
            {k: v for k, v in r.items() if k != "bbox"}
            for r in coco_sets.results_of(data, predictions)
        ]
        expected = COCOeval(truth, truth.loadRes(results), "segm")
        expected.evaluate()
        expected.accumulate()
    assert np.array_equal(analysis.precision, expected.eval["precision"][..., -1])
    assert np.array_equal(analysis.recall, expected.eval["recall"][..., -1])
    # What has an object of a size has a precision of that size.
    assert np.array_equal(analysis.objects > 0, (analysis.precision > -1).any(axis=(0, 1)))
    assert analysis.objects[:, 0].sum() == sum(not a["iscrowd"] for a in data["annotations"])


def test_average_precision_of_classes_and_sizes(analyze):
    data = truth_of([[(square(10, 10), 1), (square(50, 10, 40), 1), (square(60, 60), 3)]])
    found = instances_of([(square(10, 10), 0, 0.9), (square(70, 65), 1, 0.8)])
    analysis = analyze(data, {1: found})
    assert analysis.objects.tolist() == [[2, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert analysis.average_precision(0, area=1) == pytest.approx(1)
    assert analysis.average_precision(0, area=2) == 0
    assert np.isnan(analysis.average_precision(0, area=3))
    assert np.isnan(analysis.average_precision(2))
    assert analysis.average_precision(slice(None)) == pytest.approx((51 / 101 + 0) / 2)


def test_confusion_by_hand(analyze):
    objects = [(square(0, 0), 1), (square(30, 0), 1), (square(60, 0), 3), (square(0, 40), 3)]
    found = [
        (square(0, 0), 0, 0.9),  # right
        (square(30, 0), 1, 0.9),  # a cat called dog
        (square(60, 0), 1, 0.4),  # right, but too uncertain to count
        (square(70, 70), 2, 0.9),  # a cow where there is nothing
    ]
    confusion = analyze(truth_of([objects]), {1: instances_of(found)}).confusion
    assert confusion.tolist() == [
        [1, 1, 0, 0],
        [0, 0, 0, 2],
        [0, 0, 0, 0],
        [0, 0, 1, 0],
    ]


def test_calibration_by_hand(analyze):
    objects = [(square(x, y), 1) for x in (0, 25, 50) for y in (0, 25, 50)]
    right = [(mask, 0, 0.95) for mask, _ in objects[:3]]
    wrong = [(square(75, 75), 0, 0.93), *((square(x, 75), 1, 0.25) for x in (0, 25))]
    calibration = analyze(truth_of([objects]), {1: instances_of(right + wrong)}).calibration
    assert calibration.counts.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 4]
    assert calibration.accuracies[[2, 9]].tolist() == [0, 0.75]
    assert calibration.scores[[2, 9]] == pytest.approx([0.25, (3 * 0.95 + 0.93) / 4])
    assert np.isnan(calibration.scores[0]) and np.isnan(calibration.accuracies[0])
    assert calibration.error == pytest.approx((2 * 0.25 + 4 * (0.945 - 0.75)) / 6)


def test_calibration_without_predictions(analyze):
    analysis = analyze(truth_of([[OBJECT]]), {1: instances_of([])})
    assert np.isnan(analysis.calibration.error)
    assert analysis.confusion[0].tolist() == [0, 0, 0, 1]


def test_quality_of_images(analyze):
    data = truth_of([[OBJECT], [OBJECT], [OBJECT], [], []])
    predictions = {
        1: instances_of([HIT]),
        2: instances_of([(square(10, 10, 20, 15), 0, 0.9)]),  # IoU 0.75
        3: instances_of([(square(10, 10), 0, 0.4)]),
        4: instances_of([]),
        5: instances_of([HIT]),
    }
    quality = analyze(data, predictions).quality
    assert quality == pytest.approx({"1.png": 1, "2.png": 0.6, "3.png": 0, "5.png": 0})
