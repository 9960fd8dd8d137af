"""What panoptic predictions get wrong, from matches that exist already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..structures import Classes
from .panoptic_quality import Counts, ImageMatches


@dataclass(frozen=True)
class PanopticAnalysis:
    """Details of panoptic quality.

    Attributes:
        classes: K classes.
        counts: K counts of segments.
        confusion: (K + 1, K + 1) pairs of the true class (rows) and the predicted class (columns)
            with an IoU above 0.5. The last row has predicted segments that overlap none so much,
            the last column true ones.
        quality: image file -> panoptic quality of the image in [0, 1], with all classes taken
            together. Images without segments are left out.
    """

    classes: Classes
    counts: Sequence[Counts]
    confusion: np.ndarray
    quality: Mapping[str, float]


def analyze_panoptic(
    matches: Sequence[ImageMatches], classes: Classes, by_file: Mapping[str, ImageMatches]
) -> PanopticAnalysis:
    """Sum the matches of images.

    Args:
        matches: of all images.
        classes: the classes; others do not count.
        by_file: matches of the images with predictions.
    """
    K = len(classes)
    counts = [Counts() for _ in range(K)]
    confusion = np.zeros((K + 1, K + 1), dtype=np.int64)
    index: dict[int | None, int] = {category_id: i for i, category_id in enumerate(classes.ids)}
    index[None] = K
    for image in matches:
        for category_id, count in image.counts.items():
            if category_id in classes.index:
                counts[index[category_id]] += count
        for (true, predicted), number in image.confusion.items():
            if true in index and predicted in index:
                confusion[index[true], index[predicted]] += number
    quality = {name: image.quality for name, image in by_file.items()}
    known = {name: value for name, value in quality.items() if not math.isnan(value)}
    return PanopticAnalysis(classes, counts, confusion, known)
