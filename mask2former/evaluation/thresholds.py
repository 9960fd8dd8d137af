"""The lowest score of each class's instances to show, from predictions whose rightness is known.

A prediction is right if an object of its class has an IoU of at least 0.5 with it, by COCO's rules.
These match predictions in descending order of score, so those above a threshold match as if the
others did not exist.

Shapes:
    N: predictions of a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import hotcoco
import numpy as np

from .average_precision import IOU_50

LEAST_OBJECTS = 10
"""A class with fewer objects in the validation set gets no threshold of its own."""
CONFIDENCE = 0.95
"""A precision is promised if it is at least as high with this probability."""


@dataclass(frozen=True)
class ClassMatches:
    """The predictions of one class.

    Attributes:
        scores: (N,), descending.
        right: (N,) bool, whether each is right; those on crowd regions are left out.
        objects: number of true objects.
    """

    scores: np.ndarray
    right: np.ndarray
    objects: int


@dataclass(frozen=True)
class Threshold:
    """The threshold of one class, and what it does on the data that it was found on.

    Attributes:
        value: the lowest score to show; None if the class keeps the default.
        shown: number of predictions with at least this score.
        right: how many of them are right.
        objects: number of true objects.
        reason: why the class keeps the default; "" if it does not.
    """

    value: float | None
    shown: int
    right: int
    objects: int
    reason: str = ""

    @property
    def precision(self) -> float:
        """The share of the predictions shown that are right; NaN without any."""
        return self.right / self.shown if self.shown else float("nan")

    @property
    def recall(self) -> float:
        """The share of the objects that are found; NaN without any."""
        return self.right / self.objects if self.objects else float("nan")


def class_matches(matched: hotcoco.COCOeval) -> dict[int, ClassMatches]:
    """Return the matches of each category id, of what `match_results` returned."""
    everything = matched.params.areaRng[0]
    scores: dict[int, list[float]] = {i: [] for i in matched.params.catIds}
    right: dict[int, list[bool]] = {i: [] for i in matched.params.catIds}
    objects = dict.fromkeys(matched.params.catIds, 0)
    for image in matched.evalImgs:
        if image is None or list(image["aRng"]) != list(everything):
            continue
        category = image["category_id"]
        objects[category] += sum(image["gtInDenominator"])
        counted = [not ignored for ignored in image["dtIgnore"][IOU_50]]
        scores[category] += [s for s, c in zip(image["dtScores"], counted, strict=True) if c]
        right[category] += [
            bool(m) for m, c in zip(image["dtMatched"][IOU_50], counted, strict=True) if c
        ]
    return {i: _sorted(scores[i], right[i], objects[i]) for i in scores}


def _sorted(scores: list[float], right: list[bool], objects: int) -> ClassMatches:
    order = np.argsort(-np.array(scores), kind="stable")
    return ClassMatches(np.array(scores)[order], np.array(right, bool)[order], objects)


def choose_threshold(
    matches: ClassMatches, *, precision: float | None = None, default: float
) -> Threshold:
    """Choose the threshold of a class.

    Args:
        matches: of the class.
        precision: the wanted precision, above 0 and below 1. The threshold is the lowest one whose
            predictions have it with a probability of `CONFIDENCE`, by the lower bound of Clopper
            and Pearson. None asks for the highest F1.
        default: the threshold of classes that get none of their own.
    """

    def kept(reason: str) -> Threshold:
        shown = matches.scores >= default
        right = int(matches.right[shown].sum())
        return Threshold(None, int(shown.sum()), right, matches.objects, reason)

    if matches.objects < LEAST_OBJECTS:
        return kept(f"it has fewer than {LEAST_OBJECTS} objects")
    # Predictions of one score are shown together: the last of them stands for all.
    last = np.flatnonzero(np.diff(matches.scores, append=-np.inf))
    right = np.cumsum(matches.right)[last]
    shown = last + 1
    if precision is None:
        quality = 2 * right / (shown + matches.objects)
        if not quality.any():
            return kept("nothing that the model finds is right")
        best = int(quality.argmax())
    else:
        reached = np.flatnonzero(lowest_precision(right, shown) >= precision)
        if not len(reached):
            return kept(f"no threshold reaches a precision of {precision:g} for certain")
        best = int(reached[-1])
    value = float(matches.scores[last[best]])
    if best + 1 < len(last):
        # In the middle of the gap, where rounding errors of a runtime do not matter
        below = float(matches.scores[last[best + 1]])
        middle = float(np.float32((value + below) / 2))
        value = middle if middle > below else value
    return Threshold(value, int(shown[best]), int(right[best]), matches.objects)


def lowest_precision(right: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return the precisions that are exceeded with a probability of `CONFIDENCE`.

    They are the one-sided lower bounds of Clopper and Pearson ("The use of confidence or fiducial
    limits illustrated in the case of the binomial", 1934).

    Args:
        right: numbers of right predictions.
        shown: numbers of predictions, at least 1.
    """
    from scipy.special import betaincinv  # takes longer than this package

    return np.nan_to_num(betaincinv(right, shown - right + 1, 1 - CONFIDENCE))
