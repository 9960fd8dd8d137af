"""What instance predictions get wrong, from matches that exist already.

Axes of arrays: T IoU thresholds 0.50, 0.55 ... 0.95, R 101 levels of recall, K classes, A areas
(all, small, medium, large).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import hotcoco
import numpy as np

from .average_precision import accumulated
from .calibration import Calibration

# The lowest score of the predictions that a user sees, as in the demo.
CONFIDENT = 0.5
# TIDE's kinds of errors (Bolya et al., arXiv 2008.08115, section 2.2): a prediction that does not
# match, by its overlap with objects, and objects that no prediction accounts for.
ERROR_KINDS = {
    "Cls": "right mask, wrong class",
    "Loc": "right class, inaccurate mask",
    "Both": "wrong class and inaccurate mask",
    "Dupe": "object that was found already",
    "Bkg": "no object there",
    "Miss": "object without any prediction",
}
_SQUARES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


@dataclass(frozen=True)
class ErrorKind:
    """How often a kind of error occurs, and what it costs.

    Attributes:
        cost: AP50 that correcting all errors of the kind would add, 0 to 1.
        count: the errors among all predictions.
        confident: the errors among predictions with a score of at least `CONFIDENT`.
    """

    cost: float
    count: int
    confident: int


@dataclass(frozen=True)
class InstanceAnalysis:
    """Details of mask AP.

    Attributes:
        names: K names, in the order of category ids.
        objects: (K, A) true objects that are not crowds.
        precision: (T, R, K, A) in [0, 1], -1 without ground truth.
        recall: (T, K, A) the highest recall, -1 without ground truth.
        errors: by kind, in the order of `ERROR_KINDS`.
        confusion: (K + 1, K + 1) pairs of the true class (rows) and the predicted class (columns)
            with an IoU of at least 0.5, for scores of at least `CONFIDENT`. The last row has
            predictions without an object, the last column objects without a prediction.
        calibration: of the scores of all predictions; right is an IoU of at least 0.5.
        quality: image file -> F1 in [0, 1] of the predictions with a score of at least
            `CONFIDENT`, averaged over the IoU thresholds. Images without objects and without such
            predictions are left out.
    """

    names: Sequence[str]
    objects: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    errors: Mapping[str, ErrorKind]
    confusion: np.ndarray
    calibration: Calibration
    quality: Mapping[str, float]

    def average_precision(
        self, classes: slice | int, area: int = 0, iou: int | None = None
    ) -> float:
        """Return the AP in [0, 1] of some classes; NaN without ground truth.

        Args:
            classes: an index or a slice of the K classes.
            area: an index of the A areas.
            iou: an index of the T thresholds, by default the mean over all.
        """
        values = self.precision[slice(None) if iou is None else iou][..., classes, area]
        known = values[values > -1]
        return float(known.mean()) if known.size else float("nan")


def analyze_instances(
    matched: hotcoco.COCOeval,
    confident: hotcoco.COCOeval,
    names: Sequence[str],
    files: Mapping[int, str],
) -> InstanceAnalysis:
    """Analyse what `match_results` returned.

    Args:
        matched: the matches of all predictions.
        confident: the matches of those with a score of at least `CONFIDENT`.
        names: K names of the evaluated classes, by ascending id.
        files: image file by the number of the image, of the images that were predicted.
    """
    arrays = accumulated(matched)
    everything, sure = matched.tide_errors(), confident.tide_errors()
    confusion = confident.confusion_matrix(min_score=CONFIDENT)
    return InstanceAnalysis(
        names=names,
        objects=_objects(matched),
        precision=arrays["precision"][..., -1],
        recall=arrays["recall"][..., -1],
        errors={
            kind: ErrorKind(
                max(0.0, everything["delta_ap"][kind]),
                everything["counts"][kind],
                sure["counts"][kind],
            )
            for kind in ERROR_KINDS
        },
        confusion=confusion["matrix"].astype(np.int64),
        calibration=Calibration.from_bins(matched.calibration(n_bins=10)["bins"]),
        quality=_quality(confident, files),
    )


def _objects(matched: hotcoco.COCOeval) -> np.ndarray:
    """Return the (K, A) numbers of true objects."""
    order = {category_id: k for k, category_id in enumerate(matched.params.catIds)}
    images = set(matched.params.imgIds)
    counts = np.zeros((len(order), 1 + len(_SQUARES)), dtype=np.int64)
    for annotation in matched.coco_gt.dataset["annotations"]:
        k = order.get(annotation["category_id"])
        if k is None or annotation.get("iscrowd") or annotation["image_id"] not in images:
            continue
        counts[k, 0] += 1
        for a, (low, high) in enumerate(_SQUARES.values(), start=1):
            counts[k, a] += low <= annotation["area"] <= high
    return counts


def _quality(confident: hotcoco.COCOeval, files: Mapping[int, str]) -> dict[str, float]:
    thresholds = confident.params.iouThrs
    total: dict[str, float] = {}
    for iou in thresholds:
        images = confident.image_diagnostics(iou_thr=float(iou), score_thr=CONFIDENT)["img_summary"]
        for number, image in images.items():
            if number in files:
                total[files[number]] = total.get(files[number], 0.0) + image["f1"]
    return {name: value / len(thresholds) for name, value in total.items()}
