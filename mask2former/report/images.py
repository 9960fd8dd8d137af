"""The images that a model predicts best and worst, beside their ground truth."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..evaluation.instance_analysis import CONFIDENT
from ..utils.progress import with_progress
from ..visualization.result_files import ResultFile
from .comparison import Comparison
from .page import Picture, Pictures, shown_name

logger = logging.getLogger(__name__)

MOST = 6
_LONGEST = 1100  # pixels of a picture


def best_and_worst(quality: Mapping[str, float], most: int = MOST) -> tuple[list[str], list[str]]:
    """Return the image files with the highest and the lowest quality, each in that order.

    No image is in both; of an odd number of images the middle one is among the worst.
    """
    ranked = sorted(quality, key=lambda name: (quality[name], name))
    worst = ranked[: min(most, math.ceil(len(ranked) / 2))]
    best = ranked[len(worst) :][::-1][:most]
    return best, worst


def image_blocks(
    dataset_name: str,
    results_file: str,
    quality: Mapping[str, float],
    meaning: str,
    most: int = MOST,
) -> list[Pictures]:
    """Draw the worst and the best images of an evaluation.

    Args:
        dataset_name: a registered data set.
        results_file: the predictions that an evaluator wrote.
        quality: image file -> quality in [0, 1].
        meaning: what the quality is, for the reader.
        most: how many of the worst images to draw at most, and as many of the best.

    Raises:
        ValueError: a file cannot be read or is not usable.
    """
    best, worst = best_and_worst(quality, most)
    if not worst:
        return []
    results = ResultFile(results_file)
    threshold = CONFIDENT if results.task == "instance" else None
    comparison = Comparison(results, MetadataCatalog.get(dataset_name), threshold)
    wanted = {*best, *worst}
    records = {r["file_name"]: r for r in DatasetCatalog.get(dataset_name)}
    pictures = {}
    for name in with_progress(sorted(wanted), "Drawing the best and the worst images", delay=2):
        picture = _draw(records[name], results, comparison, quality[name])
        if picture is not None:
            pictures[name] = picture

    def of(names: Sequence[str]) -> list[Picture]:
        return [pictures[name] for name in names if name in pictures]

    shown = f" Predictions with a score of at least {CONFIDENT:g} are drawn." if threshold else ""
    return [
        Pictures(title, of(names), note)
        for title, names, note in (
            ("Worst images", worst, f"Ranked by {meaning}.{shown}"),
            ("Best images", best, ""),
        )
        if of(names)
    ]


def _draw(
    record: Mapping[str, Any], results: ResultFile, comparison: Comparison, quality: float
) -> Picture | None:
    entries = results.find(record)
    if entries is None:
        if results.task != "instance":
            return None
        entries = []  # nothing was found in the image
    image, _ = comparison.draw(record, entries)
    name = shown_name(Path(record["file_name"]).name)
    return Picture.of(image, f"{name}: {100 * quality:.1f} %", _LONGEST)
