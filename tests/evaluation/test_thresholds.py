"""Thresholds of classes: by brute force over all scores, and what they promise on other images."""

import contextlib
import io

import coco_sets
import numpy as np
import pytest
from coco_sets import made_up_annotations, perturbed, results_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import binom, binomtest

from mask2former.evaluation import COCOInstanceEvaluator
from mask2former.evaluation.thresholds import (
    CONFIDENCE,
    LEAST_OBJECTS,
    ClassMatches,
    choose_threshold,
    lowest_precision,
)


def counts(data: dict, results: list[dict], category: int) -> tuple[int, int, int]:
    """Right and shown predictions of a category, and its objects, by pycocotools."""
    truth = COCO()
    truth.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = [r for r in results if r["category_id"] == category]
        if not results:
            objects = [a for a in data["annotations"] if a["category_id"] == category]
            return 0, 0, sum(not a["iscrowd"] for a in objects)
        evaluator = COCOeval(truth, truth.loadRes(results), "segm")
        evaluator.params.catIds = [category]
        evaluator.evaluate()
    images = [e for e in evaluator.evalImgs if e and e["aRng"] == [0, 1e10]]
    ignored = np.concatenate([e["dtIgnore"][0] for e in images]).astype(bool)
    matched = np.concatenate([e["dtMatches"][0] for e in images]) > 0
    objects = sum((~np.array(e["gtIgnore"], bool)).sum() for e in images)
    return int((matched & ~ignored).sum()), int((~ignored).sum()), int(objects)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_f1_is_that_of_brute_force(seed, register_coco):
    """The oracle removes the predictions below each score, and matches the rest anew."""
    data = made_up_annotations(seed)
    predictions = perturbed(data, seed)
    evaluator = COCOInstanceEvaluator(register_coco(data))
    coco_sets.evaluate(evaluator, predictions)
    results = results_of(data, predictions)
    found = evaluator.class_matches()
    assert found.keys() == set(range(len(data["categories"])))
    compared = 0
    for category, index in coco_sets.category_indices(data).items():
        threshold = choose_threshold(found[index], default=0.5)
        everything = counts(data, results, category)
        assert threshold.objects == everything[2]
        if threshold.value is None:
            assert everything[2] < LEAST_OBJECTS and threshold.reason
            continue
        scores = {r["score"] for r in results if r["category_id"] == category}
        best = 0.0
        for score in scores:
            right, shown, objects = counts(
                data, [r for r in results if r["score"] >= score], category
            )
            best = max(best, 2 * right / (shown + objects))
        above = [r for r in results if r["score"] >= threshold.value]
        right, shown, objects = counts(data, above, category)
        assert (threshold.right, threshold.shown) == (right, shown)
        assert 2 * right / (shown + objects) == pytest.approx(best)
        assert threshold.precision == right / shown and threshold.recall == right / objects
        compared += 1
    assert compared


def made_up(rng: np.random.Generator, number: int) -> ClassMatches:
    """Predictions that are right as often as a curve of their score says, with ties."""
    scores = np.sort(np.round(rng.uniform(0, 1, number), 3))[::-1]
    right = rng.uniform(size=number) < 0.2 + 0.78 * scores**0.5
    return ClassMatches(scores, right, int(1.2 * right.sum()) + 1)


def precision_above(matches: ClassMatches, value: float) -> tuple[int, int]:
    shown = matches.scores >= value
    return int(matches.right[shown].sum()), int(shown.sum())


@pytest.mark.parametrize("wanted", [0.8, 0.9])
@pytest.mark.parametrize("number", [400, 1000])
def test_the_promised_precision_holds_on_other_images(number, wanted):
    """Each trial finds a threshold on some predictions, and counts on others."""
    rng = np.random.default_rng(0)
    held_out = made_up(rng, 200_000)
    trials = below = outside = 0
    for _ in range(200):
        found = choose_threshold(made_up(rng, number), precision=wanted, default=0.5)
        if found.value is None:
            continue
        trials += 1
        right, shown = precision_above(held_out, found.value)
        below += right / shown < wanted
        # On as many images as a user may look at, the interval of what is measured holds it.
        right, shown = precision_above(made_up(rng, 500), found.value)
        outside += binomtest(right, shown).proportion_ci(0.95).high < wanted
    assert trials > 100
    # The lowest of several thresholds is taken, so somewhat more than 5 % may fall short.
    assert below <= binom.ppf(0.999, trials, 2 * (1 - CONFIDENCE))
    assert outside <= binom.ppf(0.999, trials, 0.025)


@pytest.mark.parametrize("seed", range(3))
def test_the_wanted_precision_shows_as_much_as_is_possible(seed):
    matches = made_up(np.random.default_rng(seed), 400)
    found = choose_threshold(matches, precision=0.85, default=0.5)

    def bound(value: float) -> float:
        right, shown = precision_above(matches, value)
        return binomtest(right, shown, alternative="greater").proportion_ci(CONFIDENCE).low

    reached = [score for score in set(matches.scores) if bound(score) >= 0.85]
    assert found.value is not None
    assert precision_above(matches, found.value) == precision_above(matches, min(reached))
    assert (found.right, found.shown) == precision_above(matches, found.value)
    # It lies between two scores, so that rounding of the last digits changes nothing.
    assert np.abs(matches.scores - found.value).min() >= 2e-4


def test_the_bound_is_that_of_clopper_and_pearson():
    right, shown = np.array([0, 0, 3, 10, 29, 100]), np.array([1, 9, 10, 10, 29, 117])
    expected = [
        binomtest(k, n, alternative="greater").proportion_ci(CONFIDENCE).low
        for k, n in zip(right.tolist(), shown.tolist(), strict=True)
    ]
    np.testing.assert_allclose(lowest_precision(right, shown), expected, atol=1e-12)


def test_classes_that_keep_the_default():
    rng = np.random.default_rng(0)
    few = ClassMatches(np.array([0.9, 0.6, 0.2]), np.array([True, False, True]), 9)
    found = choose_threshold(few, default=0.5)
    assert (found.value, found.shown, found.right) == (None, 2, 1)
    assert "fewer than 10 objects" in found.reason
    wrong = ClassMatches(np.sort(rng.uniform(size=50))[::-1], np.zeros(50, bool), 40)
    assert "nothing that the model finds is right" in choose_threshold(wrong, default=0.5).reason
    found = choose_threshold(wrong, precision=0.9, default=0.5)
    assert found.value is None and "no threshold reaches a precision of 0.9" in found.reason
    nothing = ClassMatches(np.zeros(0), np.zeros(0, bool), 40)
    for precision in (None, 0.9):
        assert choose_threshold(nothing, precision=precision, default=0.5).value is None


def test_neighbouring_scores_are_told_apart():
    """The middle of two neighbours among float32 numbers would be one of them."""
    high = np.float32(0.7)
    low = np.nextafter(high, np.float32(0))
    matches = ClassMatches(
        np.array([high] * 12 + [low] * 40, float), np.array([True] * 12 + [False] * 40), 12
    )
    value = choose_threshold(matches, default=0.5).value
    assert np.float32(value) == high
