"""How often training sees the images of rare classes: repeat factors.

From LVIS (Gupta et al., arXiv 1908.03195, section 6 and appendix B): of a class in a share f of the
images, the factor is max(1, sqrt(t / f)) with a threshold t; that of an image is the greatest of
its classes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def image_classes(record: Mapping[str, Any]) -> set[int]:
    """Return the classes of a dataset dict's objects or segments, without those of crowds.

    Raises:
        ValueError: it lists neither, as those of label maps do.
    """
    for key in ("annotations", "segments_info"):
        if key in record:
            return {x["category_id"] for x in record[key] if not x.get("iscrowd", 0)}
    raise ValueError(
        "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler needs to know the classes of each "
        "image before it is read, which annotations and panoptic segments say, but label maps do "
        "not: set TrainingSampler"
    )


def class_factors(frequencies: Mapping[int, float], threshold: float) -> dict[int, float]:
    """Return the factor of each class.

    Args:
        frequencies: share of the images that have the class, above 0.
        threshold: t, the share below which a class is repeated.
    """
    return {c: max(1.0, (threshold / f) ** 0.5) for c, f in frequencies.items()}


def repeat_factors(classes: Sequence[Collection[int]], threshold: float) -> np.ndarray:
    """Return the factor of each image, (N,) float64, at least 1.

    Args:
        classes: of each of N images.
        threshold: see `class_factors`.
    """
    counts = Counter(c for of_image in classes for c in set(of_image))
    factors = class_factors({c: n / len(classes) for c, n in counts.items()}, threshold)
    return np.array([max([1.0, *(factors[c] for c in of_image)]) for of_image in classes])


def log_factors(factors: np.ndarray) -> None:
    """Log how many images are repeated, and how much longer an epoch is."""
    logger.info(
        "Images of rare classes are repeated: %d of %d, up to %.1f times; an epoch has %d samples",
        np.count_nonzero(factors > 1), len(factors), factors.max(), epoch_length(factors),
    )  # fmt: skip


def epoch_length(factors: np.ndarray) -> int:
    """Return how many samples an epoch has: the sum of the factors, rounded."""
    return round(float(factors.sum()))


def draw_epoch(factors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw the images of an epoch, (`epoch_length`,) indices in random order.

    Each image is there as often as its factor, rounded up or down at random (systematic sampling),
    so that epochs have one length. That length is the sum of the factors, rounded; on average, an
    image is there as often as its factor times the ratio of the two.
    """
    order = generator.permutation(len(factors))
    ends = np.cumsum(factors[order])
    count = epoch_length(factors)
    points = (generator.random() + np.arange(count)) * (ends[-1] / count)
    chosen = np.searchsorted(ends, points, side="right").clip(max=len(factors) - 1)
    return generator.permutation(order[chosen])
