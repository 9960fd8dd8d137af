"""Confusion of segments and quality of images, by a plain restatement and by hand."""

import math

import numpy as np
import panoptic_sets
import pytest
from panoptic_sets import CONTIGUOUS, evaluate, read_ids

from mask2former.evaluation import PanopticEvaluator
from mask2former.evaluation.panoptic_quality import match_segments

VOID = 0


@pytest.mark.parametrize("seed", range(3))
def test_confusion_is_that_of_segments_with_an_iou_above_one_half(
    register_panoptic, tmp_path, seed
):
    content = panoptic_sets.make_truth(tmp_path, seed)
    predictions = panoptic_sets.make_predictions(tmp_path, content, seed)
    evaluator = PanopticEvaluator(register_panoptic(tmp_path, content))
    results = evaluate(evaluator, predictions, content)["panoptic_seg"]
    analysis = evaluator.analysis()
    K = len(analysis.classes)
    expected = np.zeros((K + 1, K + 1), dtype=int)
    ids = {i: c for c, i in CONTIGUOUS.items()}
    for annotation in content["annotations"]:
        truth = read_ids(tmp_path / "panoptic" / annotation["file_name"])
        predicted, infos = predictions[annotation["image_id"]]
        predicted = predicted.numpy()
        crowds = {s["category_id"]: s["id"] for s in annotation["segments_info"] if s["iscrowd"]}
        lonely = {s["id"] for s in infos}
        for segment in annotation["segments_info"]:
            if segment["iscrowd"]:
                continue
            mask, column = truth == segment["id"], K
            for info in infos:
                other = predicted == info["id"]
                union = (mask | (other & (truth != VOID))).sum()
                if (mask & other).sum() / union > 0.5:
                    column = analysis.classes.index[ids[info["category_id"]]]
                    lonely.discard(info["id"])
            expected[analysis.classes.index[segment["category_id"]], column] += 1
        for info in infos:
            category, other = ids[info["category_id"]], predicted == info["id"]
            ignored = (truth == VOID) | (truth == crowds.get(category, VOID))
            if info["id"] in lonely and (other & ignored).sum() <= other.sum() / 2:
                expected[K, analysis.classes.index[category]] += 1
    assert np.array_equal(analysis.confusion, expected)
    assert [c.tp for c in analysis.counts] == expected.diagonal()[:K].tolist()
    assert [c.tp + c.fn for c in analysis.counts] == expected[:K].sum(1).tolist()
    values = np.array([c.qualities for c in analysis.counts])
    assert results["PQ"] == pytest.approx(100 * np.nanmean(values[:, 0]))


def test_images_without_a_prediction_count_but_have_no_quality(register_panoptic, tmp_path):
    content = panoptic_sets.make_truth(tmp_path, 0)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 0)
    evaluator = PanopticEvaluator(register_panoptic(tmp_path, content))
    evaluate(evaluator, predictions, content)
    every = evaluator.analysis()
    left_out = content["annotations"][0]["image_id"]
    del predictions[left_out]
    evaluator.reset()
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for image_id, prediction in predictions.items():
        evaluator.process(
            [{"image_id": image_id, "file_name": names[image_id]}], [{"panoptic_seg": prediction}]
        )
    evaluator.evaluate()
    analysis = evaluator.analysis()
    K = len(analysis.classes)
    assert analysis.confusion[:K].sum() == every.confusion[:K].sum()
    assert analysis.confusion[:K, K].sum() > every.confusion[:K, K].sum()
    assert set(analysis.quality) <= {names[image_id] for image_id in predictions}


def test_quality_of_an_image_by_hand():
    truth = np.repeat([[1, 1, 2, 2, 3, 3]], 4, axis=0)
    predicted = np.repeat([[1, 1, 2, 2, 2, 4]], 4, axis=0)
    true = [{"id": i, "category_id": c} for i, c in ((1, 7), (2, 7), (3, 9))]
    found = [{"id": i, "category_id": c} for i, c in ((1, 7), (2, 9), (4, 9))]
    image = match_segments(truth, true, predicted, found)
    # One right, one called 9, and one of which half was found: an IoU of 0.5 is not enough.
    assert image.confusion == {(7, 7): 1, (7, 9): 1, (9, None): 1, (None, 9): 1}
    assert image.quality == pytest.approx(1 / (1 + 2 / 2 + 2 / 2))
    assert image.counts[7].qualities == pytest.approx([1 / 1.5, 1, 1 / 1.5])


def test_an_image_of_void_has_no_quality():
    void = np.zeros((4, 4), dtype=int)
    assert math.isnan(match_segments(void, [], void, []).quality)
