"""Panoptic quality of predictions in files of COCO's panoptic format, from any tool."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mask2former_runtime.text import some_of

from ..data.errors import DatasetError
from ..data.label_maps import read_panoptic_png
from ..utils.progress import with_progress
from .ground_truth import PanopticTruth, Segment
from .panoptic_quality import Counts, PanopticQuality, match_segments, panoptic_quality


def evaluate_files(
    truth: PanopticTruth,
    predictions: PanopticTruth,
    *,
    workers: int = 1,
    progress: bool = True,
) -> PanopticQuality:
    """Compute the panoptic quality of one set of files against another.

    Args:
        truth: the ground truth.
        predictions: the predictions, with the category ids of the ground truth.
        workers: number of processes that compare images.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: a file cannot be read, contradicts itself or does not fit the ground truth.
    """
    if not truth.annotated or not predictions.annotated:
        source = predictions.source if truth.annotated else truth.source
        raise DatasetError(f"{source} has no 'annotations'")
    if unknown := predictions.image_ids - truth.image_ids:
        raise DatasetError(
            f"{predictions.source} has {len(unknown)} images that {truth.source} does not have: "
            f"{some_of([repr(image_id) for image_id in unknown])}"
        )
    if missing := truth.image_ids - predictions.image_ids:
        raise DatasetError(
            f"{predictions.source} has no prediction for {len(missing)} of "
            f"{len(truth.image_ids)} images: {some_of([repr(i) for i in missing])}"
        )
    tasks = []
    for image_id in truth.image_ids:
        segments = predictions.segments(image_id)
        wrong = {segment["category_id"] for segment in segments} - truth.classes.index.keys()
        if wrong:
            raise DatasetError(
                f"{predictions.source}: image {image_id!r}: category ids {sorted(wrong)} are not "
                f"in {truth.source}"
            )
        tasks.append(
            _Task(
                truth.path(image_id), truth.segments(image_id), predictions.path(image_id), segments
            )
        )
    with multiprocessing.Pool(workers) if workers > 1 else contextlib.nullcontext() as pool:
        found: Iterable = map(_compare, tasks) if pool is None else pool.imap(_compare, tasks, 8)
        counts = list(
            with_progress(found, "Comparing", total=len(tasks), unit="images", quiet=not progress)
        )
    return panoptic_quality(counts, truth.classes)


class _Task(NamedTuple):
    """What a process needs to compare one image, which is less than both files."""

    truth_png: str
    truth_segments: Sequence[Segment]
    predicted_png: str
    predicted_segments: Sequence[Segment]


def _compare(task: _Task) -> dict[int, Counts]:
    truth, predicted = read_panoptic_png(task.truth_png), read_panoptic_png(task.predicted_png)
    try:
        matches = match_segments(truth, task.truth_segments, predicted, task.predicted_segments)
    except ValueError as error:
        raise DatasetError(f"{task.predicted_png}: {error}") from error
    return matches.counts


def read_folder(panoptic_json: str, folder: str | None = None) -> PanopticTruth:
    """Read a JSON of COCO's panoptic format.

    Args:
        panoptic_json: the file.
        folder: the folder of its PNG files, by default the path of the JSON without ".json".

    Raises:
        DatasetError: the file or the folder does not exist, or the JSON is not of that format.
    """
    folder = folder or os.path.splitext(panoptic_json)[0]
    if not os.path.isdir(folder):
        raise DatasetError(f"there is no folder {folder} with the PNG files of {panoptic_json}")
    return PanopticTruth.from_json(panoptic_json, folder)
