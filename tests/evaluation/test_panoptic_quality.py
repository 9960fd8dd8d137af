"""The numbers equal panopticapi's, on made-up and on real ground truth."""

import contextlib
import io
import json
from pathlib import Path

import hotcoco.panoptic
import numpy as np
import panoptic_sets
import panopticapi_oracle
import pytest
import torch
from detectron2.data import MetadataCatalog
from panoptic_sets import CATEGORIES, CONTIGUOUS, QUALITIES, evaluate, read_ids

from mask2former.evaluation import PanopticEvaluator
from mask2former.evaluation.panoptic_quality import count_overlaps, match_segments


def literal(folder: Path, content: dict, predictions: dict) -> dict[str, float]:
    """Compute panoptic quality literally by its definition, with sets of pixels."""
    totals = {c["id"]: [0.0, 0, 0, 0] for c in content["categories"]}
    ids = {i: c for c, i in CONTIGUOUS.items()}
    for annotation in content["annotations"]:
        truth = read_ids(folder / annotation["file_name"]).ravel()
        predicted, infos = predictions[annotation["image_id"]]
        predicted = predicted.numpy().ravel()
        void = {int(i) for i in np.flatnonzero(truth == 0)}
        crowds, segments = {}, []
        for info in annotation["segments_info"]:
            pixels = {int(i) for i in np.flatnonzero(truth == info["id"])}
            if info["iscrowd"]:
                crowds[info["category_id"]] = pixels  # like panopticapi, keep only the last
            else:
                segments.append((info["category_id"], pixels))
        found = []
        for info in infos:
            pixels = {int(i) for i in np.flatnonzero(predicted == info["id"])}
            found.append((ids[info["category_id"]], pixels))
        matched = set()
        for category, pixels in segments:
            for j, (other, others) in enumerate(found):
                iou = len(pixels & others) / len(pixels | (others - void))
                if category == other and iou > 0.5:
                    matched.add(j)
                    totals[category][0] += iou
                    totals[category][1] += 1
                    break
            else:
                totals[category][3] += 1
        for j, (category, pixels) in enumerate(found):
            ignored = pixels & (void | crowds.get(category, set()))
            if j not in matched and len(ignored) <= len(pixels) / 2:
                totals[category][2] += 1
    result = {}
    for suffix, things in (("", {0, 1}), ("_th", {1}), ("_st", {0})):
        rows = []
        for c in content["categories"]:
            iou, tp, fp, fn = totals[c["id"]]
            if c["isthing"] in things and tp + fp + fn:
                f1 = tp / (tp + fp / 2 + fn / 2)
                rows.append((iou / tp * f1 if tp else 0, iou / tp if tp else 0, f1))
        for name, mean in zip(("PQ", "SQ", "RQ"), np.mean(rows, axis=0), strict=True):
            result[f"{name}{suffix}"] = 100 * float(mean)
    return result


def by_file(compute, folder: Path, truth_json: Path, truth_folder: Path) -> dict[str, float]:
    """Compute the numbers with another tool, from the files that the evaluator wrote."""
    with contextlib.redirect_stdout(io.StringIO()):
        results = compute(
            str(truth_json),
            str(folder / "predictions.json"),
            gt_folder=str(truth_folder),
            pred_folder=str(folder / "predictions"),
        )
    return {
        f"{quality.upper()}{suffix}": 100 * results[group][quality]
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
        for quality in ("pq", "sq", "rq")
    }


@pytest.mark.parametrize("from_json", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_and_panopticapi(register_panoptic, tmp_path, seed, from_json):
    content = panoptic_sets.make_truth(tmp_path, seed)
    predictions = panoptic_sets.make_predictions(tmp_path, content, seed)
    name = register_panoptic(tmp_path, content, from_json=from_json)
    results = evaluate(PanopticEvaluator(name, tmp_path / "out"), predictions, content)[
        "panoptic_seg"
    ]
    assert list(results) == QUALITIES
    assert 5 < results["PQ"] < 95
    assert results == pytest.approx(
        literal(tmp_path / "panoptic", content, predictions), abs=1e-9, rel=0
    )
    files = tmp_path / "out", tmp_path / "panoptic.json", tmp_path / "panoptic"
    assert results == pytest.approx(by_file(hotcoco.panoptic.pq_compute, *files), abs=1e-9, rel=0)
    assert results == pytest.approx(by_file(panopticapi_oracle.pq_compute, *files), abs=1e-9, rel=0)


def test_the_made_up_data_has_every_case(tmp_path):
    """Crowds that hide a false positive, predictions in void, several crowds of a class."""
    crowds, ignored, double = 0, 0, 0
    for seed in range(5):
        folder = tmp_path / str(seed)
        content = panoptic_sets.make_truth(folder, seed)
        predictions = panoptic_sets.make_predictions(folder, content, seed)
        for annotation in content["annotations"]:
            infos = annotation["segments_info"]
            crowd_classes = [s["category_id"] for s in infos if s["iscrowd"]]
            crowds += len(crowd_classes)
            double += len(crowd_classes) - len(set(crowd_classes))
            truth = read_ids(folder / "panoptic" / annotation["file_name"])
            ids, segments = predictions[annotation["image_id"]]
            for s in segments:
                s["category_id"] = CATEGORIES[s["category_id"]]["id"]
            with_crowds = match_segments(truth, infos, ids.numpy(), segments).counts
            infos = [s for s in infos if not s["iscrowd"]]
            without = match_segments(truth, infos, ids.numpy(), segments).counts
            ignored += sum(c.fp for c in without.values()) - sum(c.fp for c in with_crowds.values())
    assert crowds > 20 and double > 2 and ignored > 5


def test_real_ground_truth(shared, tmp_path):
    """It scores 100 against itself, and the same as in panopticapi after a perturbation."""
    sample = shared / "data/coco_panoptic_sample/sample_data"
    truth_json, truth_folder = sample / "panoptic_examples.json", sample / "panoptic_examples"
    content = json.loads(truth_json.read_text())
    name = "test_panoptic_evaluation_real"
    index = {c["id"]: i for i, c in enumerate(content["categories"])}
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    MetadataCatalog.get(name).set(
        panoptic_json=str(truth_json),
        panoptic_root=str(truth_folder),
        thing_dataset_id_to_contiguous_id={i: index[i] for i in things},
        stuff_dataset_id_to_contiguous_id=index,
    )
    predictions, perturbed = {}, {}
    for annotation in content["annotations"]:
        ids = torch.from_numpy(read_ids(truth_folder / annotation["file_name"])).int()
        segments = [
            {
                "id": s["id"],
                "isthing": s["category_id"] in things,
                "category_id": index[s["category_id"]],
            }
            for s in annotation["segments_info"]
            if not s["iscrowd"]
        ]
        known = torch.isin(ids, torch.tensor([s["id"] for s in segments], dtype=torch.int32))
        ids[~known] = 0
        predictions[annotation["image_id"]] = (ids, segments)
        moved = ids.roll((4, 7), (0, 1))
        left = [s for s in segments if (moved == s["id"]).any()]
        perturbed[annotation["image_id"]] = (moved, left)
    try:
        evaluator = PanopticEvaluator(name, tmp_path)
        same = evaluate(evaluator, predictions, content)["panoptic_seg"]
        assert same == dict.fromkeys(QUALITIES, 100)
        results = evaluate(evaluator, perturbed, content)["panoptic_seg"]
    finally:
        MetadataCatalog.pop(name)
    assert 20 < results["PQ"] < 99
    for compute in (hotcoco.panoptic.pq_compute, panopticapi_oracle.pq_compute):
        expected = by_file(compute, tmp_path, truth_json, truth_folder)
        assert results == pytest.approx(expected, abs=1e-9, rel=0)


def test_overlaps_are_counted_pixel_by_pixel():
    rng = np.random.default_rng(0)
    for shape in ((7, 9), (1, 1), (5, 1), (0, 4)):
        first, second = (rng.choice([0, 3, 2**24 - 1], shape) for _ in range(2))
        expected: dict = {}
        for pair in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
            expected[pair] = expected.get(pair, 0) + 1
        assert count_overlaps(first, second.astype(np.int32)) == expected
