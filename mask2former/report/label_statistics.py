"""How often each class occurs in the data of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ..data.label_maps import read_label_map
from ..utils.progress import with_progress

# Label maps that are read at most, spread over the data set.
MOST_MAPS = 200


@dataclass(frozen=True)
class LabelStatistics:
    """Counts of labels.

    Attributes:
        unit: what `counts` counts: "objects", "segments" or "pixels".
        images: all images.
        examined: images whose labels were read.
        counts: (K,) labels that are not crowds.
        in_images: (K,) images with the class.
        sides: K median sides of the objects in pixels, the root of the area of their boxes; NaN
            where it is not known.
        crowds: crowd regions.
    """

    unit: str
    images: int
    examined: int
    counts: np.ndarray
    in_images: np.ndarray
    sides: np.ndarray
    crowds: int = 0


def count_labels(records: Sequence[dict[str, Any]], targets: str, K: int) -> LabelStatistics:
    """Count the labels of dataset dicts.

    Args:
        records: the images. Of label maps at most `MOST_MAPS` are read.
        targets: "instance", "panoptic" or "semantic".
        K: number of classes; other labels are ignored ones.

    Raises:
        DatasetError: a label map cannot be read.
    """
    if targets == "semantic":
        return _count_pixels(records, K)
    key = "annotations" if targets == "instance" else "segments_info"
    counts, in_images = np.zeros(K, dtype=np.int64), np.zeros(K, dtype=np.int64)
    sides: list[list[float]] = [[] for _ in range(K)]
    crowds = 0
    for i in with_progress(range(len(records)), "Counting labels", unit="images", delay=2):
        labels = []
        for item in records[i][key]:
            if item.get("iscrowd"):
                crowds += 1
                continue
            labels.append(item["category_id"])
            if "bbox_mode" in item:
                x0, y0, x1, y1 = BoxMode.convert(
                    list(item["bbox"]), item["bbox_mode"], BoxMode.XYXY_ABS
                )
                sides[labels[-1]].append(max(0.0, (x1 - x0) * (y1 - y0)) ** 0.5)
        counts += np.bincount(labels, minlength=K) if labels else 0
        in_images[list(set(labels))] += 1
    median = np.array([np.median(values) if values else np.nan for values in sides])
    unit = "objects" if targets == "instance" else "segments"
    return LabelStatistics(unit, len(records), len(records), counts, in_images, median, crowds)


def _count_pixels(records: Sequence[dict[str, Any]], K: int) -> LabelStatistics:
    chosen = np.unique(np.linspace(0, len(records) - 1, MOST_MAPS).round().astype(int))
    counts, in_images = np.zeros(K, dtype=np.int64), np.zeros(K, dtype=np.int64)
    for i in with_progress(chosen.tolist(), "Counting labels", unit="images", delay=2):
        labels, pixels = np.unique(
            read_label_map(records[i]["sem_seg_file_name"]), return_counts=True
        )
        known = (labels >= 0) & (labels < K)
        counts[labels[known]] += pixels[known]
        in_images[labels[known]] += 1
    return LabelStatistics(
        "pixels", len(records), len(chosen), counts, in_images, np.full(K, np.nan)
    )
