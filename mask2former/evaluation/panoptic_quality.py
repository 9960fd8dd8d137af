"""Panoptic quality from segment ids, by COCO's rules, image by image.

PQ is SQ * RQ: the mean IoU of matched segments times an F1 score (Kirillov et al., Panoptic
Segmentation, arXiv 1801.00868, section 4). A true and a predicted segment match if their class is
the same and their IoU is above 0.5, so each segment has at most one match.

Shapes:
    H, W: height and width of the image, P: pixels, R: runs of equal ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..structures import Classes

VOID = 0  # the id of pixels outside of segments


@dataclass(slots=True)
class Counts:
    """Counts of the segments of one class: PQ = iou / (tp + fp / 2 + fn / 2)."""

    iou: float = 0.0  # the sum over matched segments
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn
        )

    def __iadd__(self, other: Counts) -> Counts:
        self.iou += other.iou
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        return self

    @property
    def qualities(self) -> tuple[float, float, float]:
        """PQ, SQ and RQ in [0, 1]; NaN for a class without segments."""
        segments = self.tp + 0.5 * self.fp + 0.5 * self.fn
        if segments == 0:
            return (np.nan, np.nan, np.nan)
        sq = self.iou / self.tp if self.tp else 0.0
        return self.iou / segments, sq, self.tp / segments


def count_overlaps(truth: np.ndarray, prediction: np.ndarray) -> dict[tuple[int, int], int]:
    """Count the pixels of each pair of ids that occurs.

    Args:
        truth: (H, W) ids, integers in [0, 2**31).
        prediction: (H, W) ids, like `truth`.

    Returns:
        (id in `truth`, id in `prediction`) -> number of pixels, at least 1.
    """
    first, second = truth.reshape(-1), prediction.reshape(-1)  # (P,)
    # Ids are constant over long runs, and sorting runs is much faster than sorting pixels.
    changes = first[1:] != first[:-1]
    changes |= second[1:] != second[:-1]
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))[: len(first)]  # (R,)
    pairs = (first[starts].astype(np.int64) << 32) | second[starts].astype(np.int64)
    unique, inverse = np.unique(pairs, return_inverse=True)
    lengths = np.diff(starts, append=len(first))
    pixels = np.bincount(inverse, weights=lengths, minlength=len(unique)).astype(np.int64)
    return dict(
        zip(
            zip((unique >> 32).tolist(), (unique & 0xFFFFFFFF).tolist(), strict=True),
            pixels.tolist(),
            strict=True,
        )
    )


class ImageMatches(NamedTuple):
    """The matches of the segments of one image.

    Attributes:
        counts: category id -> counts, for the categories that occur.
        confusion: (true category id, predicted category id) -> segments whose IoU is above 0.5,
            whatever their classes. In place of a segment that nothing overlaps so much stands None;
            predictions that panoptic quality ignores are left out.
    """

    counts: dict[int, Counts]
    confusion: Counter[tuple[int | None, int | None]]

    @property
    def quality(self) -> float:
        """Panoptic quality of the image in [0, 1], with all classes taken together."""
        return sum(self.counts.values(), start=Counts()).qualities[0]


def match_segments(
    truth: np.ndarray,
    truth_segments: Sequence[Mapping[str, Any]],
    prediction: np.ndarray,
    predicted_segments: Sequence[Mapping[str, Any]],
) -> ImageMatches:
    """Match the segments of one image.

    Void pixels, with id 0 in `truth`, count neither for nor against a prediction. Crowd regions do
    not match anything. An unmatched prediction is not a false positive if more than half of it is
    void or a crowd of the same class. Areas come from the maps. Ids in `truth` that are not in
    `truth_segments` have no class.

    Args:
        truth: (H, W) segment ids.
        truth_segments: `id`, `category_id` and, if not 0, `iscrowd` of each true segment.
        prediction: (H, W) segment ids.
        predicted_segments: `id` and `category_id` of each predicted segment.

    Raises:
        ValueError: the maps differ in size, or `predicted_segments` do not fit `prediction`.
    """
    if truth.shape != prediction.shape:
        raise ValueError(
            f"the predicted map has height and width {list(prediction.shape)}, the ground truth "
            f"{list(truth.shape)}"
        )
    overlaps = count_overlaps(truth, prediction)
    truth_area: Counter[int] = Counter()
    predicted_area: Counter[int] = Counter()
    for (true_id, predicted_id), pixels in overlaps.items():
        truth_area[true_id] += pixels
        predicted_area[predicted_id] += pixels
    true = {s["id"]: s["category_id"] for s in truth_segments if not s.get("iscrowd")}
    predicted = {segment["id"]: segment["category_id"] for segment in predicted_segments}
    _check_ids(predicted_segments, predicted_area)

    counts: dict[int, Counts] = {}
    confusion: Counter[tuple[int | None, int | None]] = Counter()

    def of(category_id: int) -> Counts:
        return counts.setdefault(category_id, Counts())

    # A segment has at most one other that it overlaps so much.
    overlapped: dict[int, int] = {}  # true id -> predicted id
    matched: set[int] = set()  # of these, the true ids whose classes agree
    for (true_id, predicted_id), pixels in overlaps.items():
        if true_id not in true or predicted_id not in predicted:
            continue
        void = overlaps.get((VOID, predicted_id), 0)
        iou = pixels / (truth_area[true_id] + predicted_area[predicted_id] - pixels - void)
        if iou > 0.5:
            overlapped[true_id] = predicted_id
            confusion[true[true_id], predicted[predicted_id]] += 1
            if true[true_id] == predicted[predicted_id]:
                of(true[true_id]).tp += 1
                of(true[true_id]).iou += iou
                matched.add(true_id)
    for true_id in true.keys() - matched:
        of(true[true_id]).fn += 1
    for true_id in true.keys() - overlapped.keys():
        confusion[true[true_id], None] += 1
    crowds = {s["category_id"]: s["id"] for s in truth_segments if s.get("iscrowd")}
    for predicted_id in predicted.keys() - {overlapped[true_id] for true_id in matched}:
        ignored = overlaps.get((VOID, predicted_id), 0)
        if (crowd := crowds.get(predicted[predicted_id])) is not None:
            ignored += overlaps.get((crowd, predicted_id), 0)
        if ignored / predicted_area[predicted_id] <= 0.5:
            of(predicted[predicted_id]).fp += 1
            if predicted_id not in overlapped.values():
                confusion[None, predicted[predicted_id]] += 1
    return ImageMatches(counts, confusion)


def _check_ids(segments: Sequence[Mapping[str, Any]], area: Mapping[int, int]) -> None:
    ids = [segment["id"] for segment in segments]
    if len(set(ids)) < len(ids) or VOID in ids:
        raise ValueError(
            f"the ids of predicted segments must differ and not be {VOID}, the id of void: {ids}"
        )
    if absent := sorted(set(ids) - area.keys()):
        raise ValueError(f"predicted segments {absent} have no pixel in the predicted map")
    if unknown := sorted(area.keys() - set(ids) - {VOID}):
        raise ValueError(f"ids {unknown} in the predicted map are not among the predicted segments")


class PanopticQuality(NamedTuple):
    """Averages over classes and the values of each class, in percent; NaN without segments.

    Attributes:
        averages: "PQ", "SQ" and "RQ" of all classes, and with "_th" of things, "_st" of stuff.
        per_category: category id -> (PQ, SQ, RQ).
        num_categories: the number of classes with segments: all (""), things ("_th"), stuff
            ("_st").
    """

    averages: dict[str, float]
    per_category: dict[int, tuple[float, float, float]]
    num_categories: dict[str, int]


def panoptic_quality(counts: Iterable[Mapping[int, Counts]], classes: Classes) -> PanopticQuality:
    """Sum the counts of images and average over the classes that have segments.

    Args:
        counts: what `match_segments` counted in each image.
        classes: the classes to average over; others do not count.
    """
    totals: dict[int, Counts] = {category_id: Counts() for category_id in classes.ids}
    for image in counts:
        for category_id, count in image.items():
            if category_id in totals:
                totals[category_id] += count
    values = np.array([total.qualities for total in totals.values()]).reshape(-1, 3) * 100
    isthing = np.array([classes.is_thing(i) for i in range(len(classes))], dtype=bool)
    averages, num_categories = {}, {}
    for suffix, chosen in (("", isthing | True), ("_th", isthing), ("_st", ~isthing)):
        rows = values[chosen & ~np.isnan(values[:, 0])]
        means = rows.mean(axis=0) if len(rows) else np.full(3, np.nan)
        num_categories[suffix] = len(rows)
        for name, mean in zip(("PQ", "SQ", "RQ"), means.tolist(), strict=True):
            averages[f"{name}{suffix}"] = mean
    per_category = dict(zip(totals, map(tuple, values.tolist()), strict=True))
    return PanopticQuality(averages, per_category, num_categories)
