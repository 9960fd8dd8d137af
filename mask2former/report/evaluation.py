"""The parts of a report that show what an evaluator found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation.calibration import Calibration
from ..evaluation.instance_analysis import CONFIDENT, ERROR_KINDS, InstanceAnalysis
from ..evaluation.panoptic_analysis import PanopticAnalysis
from ..evaluation.semantic import SemanticAnalysis, class_iou
from .charts import COLORS, Axis, Series, line_chart, reliability_chart
from .page import (
    Beside,
    Block,
    Chart,
    Matrix,
    Section,
    Table,
    Tiles,
    confusion_matrix,
    confusion_table,
)

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
# The numbers that are shown large, by row: task and metric of the results, and the name shown.
_HEADLINES = (
    {
        ("panoptic_seg", "PQ"): "PQ",
        ("panoptic_seg", "SQ"): "SQ",
        ("panoptic_seg", "RQ"): "RQ",
        ("panoptic_seg", "PQ_th"): "PQ of things",
        ("panoptic_seg", "PQ_st"): "PQ of stuff",
    },
    {
        ("segm", "AP"): "mask AP",
        ("segm", "AP50"): "mask AP50",
        ("segm", "AP75"): "mask AP75",
        ("bbox", "AP"): "box AP",
    },
    {
        ("sem_seg", "mIoU"): "mIoU",
        ("sem_seg", "mACC"): "class accuracy",
        ("sem_seg", "pACC"): "pixel accuracy",
    },
)


def tiles(results: Mapping[str, Mapping[str, float]]) -> list[Tiles]:
    """Return the most important numbers, a row for each task."""
    found = [
        [
            (label, f"{results[task][name]:.1f}")
            for (task, name), label in labels.items()
            if not math.isnan(results.get(task, {}).get(name, math.nan))
        ]
        for labels in _HEADLINES
    ]
    return [Tiles(items) for items in found if items]


def numbers(results: Mapping[str, Mapping[str, float]]) -> Table:
    """Return all numbers of an evaluation but those of single classes."""
    rows = [
        (task, name, value)
        for task, values in results.items()
        for name, value in values.items()
        if "-" not in name
    ]
    return Table(
        ("task", "metric", "%"), rows, {2: 100.0}, caption="All numbers", digits=2, folded=True
    )


def instance_section(analysis: InstanceAnalysis) -> Section:
    """Show the details of mask AP."""
    blocks: list[Block] = [
        _by_class(analysis),
        Beside([_precision_by_threshold(analysis), _precision_by_class(analysis)]),
        Beside([_errors(analysis), *_reliability(analysis.calibration)]),
        Beside(
            confusion(
                analysis.names,
                analysis.confusion,
                "objects",
                missed="missed",
                invented="nothing there",
                title="Confusion of objects",
                note=f"Predictions with a score of at least {CONFIDENT:g}, matched to objects of "
                "any class at an IoU of 0.5. The colour is the share of the row.",
            )
        ),
    ]
    return Section("Instances", blocks)


def _by_class(analysis: InstanceAnalysis) -> Table:
    def row(name: str, which: slice | int) -> tuple[str | float, ...]:
        AP = analysis.average_precision
        sizes = [100 * AP(which, area=area) for area in (1, 2, 3)]
        values = 100 * AP(which), 100 * AP(which, iou=0), 100 * AP(which, iou=5)
        return name, int(analysis.objects[which, 0].sum()), *values, *sizes

    everything = row("all classes", slice(None))
    classes = [row(name, k) for k, name in enumerate(analysis.names)]
    small, medium, large = analysis.objects[:, 1:].sum(0).tolist()
    return Table(
        ("class", "objects", "AP", "AP50", "AP75", "AP small", "AP medium", "AP large"),
        [everything, *classes],
        dict.fromkeys(range(2, 8), 100.0),
        caption="Mask AP by class and size, %",
        note=f"Small is below 32², large above 96² pixels: {small:,} small, {medium:,} medium and "
        f"{large:,} large objects.",
    )


def _mean_precision(analysis: InstanceAnalysis, threshold: int, which: slice | int) -> np.ndarray:
    """Return the (R,) precision, averaged over those of the classes that occur."""
    values = analysis.precision[threshold, :, which, 0].reshape(len(_RECALLS), -1)
    values = values[:, (values > -1).all(axis=0)]
    return values.mean(1) if values.shape[1] else np.full(len(_RECALLS), np.nan)


_RECALL, _PRECISION = Axis("recall"), Axis("precision")


def _precision_by_threshold(analysis: InstanceAnalysis) -> Chart:
    chosen = [0, 2, 4, 6, 8]
    series = [
        Series(
            f"IoU {_THRESHOLDS[t]:.2f}",
            _RECALLS.tolist(),
            _mean_precision(analysis, t, slice(None)).tolist(),
        )
        for t in chosen
    ]
    return Chart(
        "Precision and recall, mean over classes",
        line_chart(series, _RECALL, _PRECISION),
        [s.name for s in series],
    )


def _precision_by_class(analysis: InstanceAnalysis) -> Chart:
    order = np.argsort(-analysis.objects[:, 0], kind="stable")
    chosen = [int(k) for k in order[:COLORS] if analysis.objects[k, 0]]
    series = [
        Series(analysis.names[k], _RECALLS.tolist(), _mean_precision(analysis, 0, k).tolist())
        for k in chosen
    ]
    few = np.count_nonzero(analysis.objects[:, 0]) > COLORS
    return Chart(
        "Precision and recall at IoU 0.50, by class",
        line_chart(series, _RECALL, _PRECISION),
        [s.name for s in series],
        f"The {COLORS} classes with most objects." if few else "",
    )


def _errors(analysis: InstanceAnalysis) -> Table:
    rows = [
        (kind, ERROR_KINDS[kind], 100 * error.cost, error.count, error.confident)
        for kind, error in analysis.errors.items()
    ]
    return Table(
        ("error", "meaning", "ΔAP50", "all", f"score ≥ {CONFIDENT:g}"),
        rows,
        {2: max(100 * error.cost for error in analysis.errors.values())},
        caption="Kinds of errors",
        note="As TIDE defines them (arXiv 2008.08115). ΔAP50 is how much mask AP50 would rise, in "
        "percentage points, if all errors of the kind were corrected. Then come their numbers, for "
        "predictions of any score and for those that are confident.",
    )


def _reliability(calibration: Calibration) -> list[Chart]:
    if not calibration.counts.any():
        return []
    return [
        Chart(
            "Reliability of scores",
            reliability_chart(
                calibration.scores.tolist(),
                calibration.accuracies.tolist(),
                calibration.counts.tolist(),
            ),
            note="Well calibrated scores are right as often as they say: their bars end at the "
            f"dashed line. Expected calibration error: {100 * calibration.error:.1f} %, over all "
            "predictions; right is a mask of the right class with an IoU of at least 0.5.",
        )
    ]


def panoptic_section(analysis: PanopticAnalysis) -> Section:
    """Show the details of panoptic quality."""
    names = analysis.classes.names
    rows = [
        (
            name,
            "thing" if analysis.classes.is_thing(k) else "stuff",
            count.tp + count.fn,
            *(100 * value for value in count.qualities),
            count.tp,
            count.fp,
            count.fn,
        )
        for k, (name, count) in enumerate(zip(names, analysis.counts, strict=True))
    ]
    headers = ("class", "", "segments", "PQ", "SQ", "RQ", "matched", "false", "missed")
    return Section(
        "Panoptic segments",
        [
            Table(
                headers,
                rows,
                dict.fromkeys((3, 4, 5), 100.0),
                caption="Panoptic quality by class, %",
                note="PQ is SQ, the mean IoU of matched segments, times RQ, their F1 score. Then "
                "come numbers of segments: matched, predicted without a match, and missed.",
            ),
            Beside(
                confusion(
                    names,
                    analysis.confusion,
                    "segments",
                    missed="missed",
                    invented="nothing there",
                    title="Confusion of segments",
                    note="Segments of any class that overlap with an IoU above 0.5. The colour is "
                    "the share of the row.",
                )
            ),
        ],
    )


def semantic_section(analysis: SemanticAnalysis) -> Section:
    """Show the details of mean IoU."""
    names, pixels = analysis.names, analysis.confusion
    truth, predicted = pixels.sum(1), pixels.sum(0)
    total = max(1, int(truth.sum()))

    def part(k: int, of: np.ndarray) -> float:
        return 100 * pixels[k, k] / of[k] if of[k] else math.nan

    rows = [
        (name, 100 * truth[k] / total, 100 * iou, part(k, truth), part(k, predicted))
        for k, (name, iou) in enumerate(zip(names, class_iou(pixels).tolist(), strict=True))
    ]
    return Section(
        "Semantic classes",
        [
            Table(
                ("class", "% of pixels", "IoU", "accuracy", "precision"),
                rows,
                dict.fromkeys((2, 3, 4), 100.0),
                caption="IoU by class, %",
                note="Accuracy is the share of the class's pixels that are predicted as such, "
                "precision the share of the pixels predicted as the class that are right.",
            ),
            Beside(
                confusion(
                    names,
                    pixels,
                    "pixels",
                    title="Confusion of pixels, % of the true class",
                    percent=True,
                )
            ),
        ],
    )


def confusion(
    names: Sequence[str], counts: np.ndarray, unit: str, **options: Any
) -> list[Matrix | Table]:
    """Show a confusion matrix and, of several classes, the most frequent confusions.

    Args:
        names: K names.
        counts: see `confusion_matrix`.
        unit: what is counted.
        options: of `confusion_matrix`.
    """
    matrix = confusion_matrix(names, counts, **options)
    return [matrix, confusion_table(names, counts, unit)] if len(names) > 1 else [matrix]
