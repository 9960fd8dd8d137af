"""Derive the classes of pixels from the panoptic segments that they belong to.

Shapes:
    H, W: height and width of the image.
    S: listed segments and the number 0, padded to all numbers that the type of a map can hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Segment = Mapping[str, Any]
"""An element of ``segments_info``: ``id``, ``category_id`` and perhaps more."""

NUM_SEGMENT_IDS = 1 << 24  # R + 256 G + 65536 B
# Rows that are looked up at a time.
_BLOCK = 64


def number_segments(segment_ids: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """Replace the ids of segments by their positions.

    Args:
        segment_ids: (H, W) whole numbers from 0 to 2**24 - 1.
        segments: the ``id`` of each.

    Returns:
        (H, W), uint8 or, for more than 254 segments, uint16: 1 + the position in `segments` of the
        segment that a pixel belongs to, or 0 where it belongs to none that is listed.
    """
    # Zeros that are never touched take no memory, so this is quicker than any search.
    numbers = np.zeros(NUM_SEGMENT_IDS, dtype=np.uint8 if len(segments) <= 254 else np.uint16)
    for number, segment in enumerate(segments, start=1):
        if 0 <= segment["id"] < NUM_SEGMENT_IDS:  # no pixel has another id
            numbers[segment["id"]] = number
    return look_up(numbers, segment_ids)


def segment_classes(segments: Sequence[Segment], ignore_label: int) -> np.ndarray:
    """Return the (S,) class of each number that a map of `number_segments` may hold.

    Args:
        segments: the ``category_id`` of each.
        ignore_label: class of all numbers that belong to no segment; any integer.
    """
    count = 256 if len(segments) <= 254 else 1 << 16
    classes = [segment["category_id"] for segment in segments]
    dtype = np.result_type(*map(np.min_scalar_type, (ignore_label, max(classes, default=0))))
    labels = np.full(count, ignore_label, dtype=dtype)
    labels[1 : len(classes) + 1] = classes
    return labels


def semantic_labels(
    segment_ids: np.ndarray, segments: Sequence[Segment], ignore_label: int
) -> np.ndarray:
    """Return the (H, W) int32 classes of the segments that pixels belong to, crowds included.

    Args:
        segment_ids: (H, W) as `read_panoptic_png` returns them.
        segments: ``id`` and ``category_id``; pixels of other ids get `ignore_label`.
        ignore_label: any integer.
    """
    classes = segment_classes(segments, ignore_label).astype(np.int32)
    return look_up(classes, number_segments(segment_ids, segments))


def look_up(table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return ``table[numbers]`` of a map (H, W).

    NumPy first converts indices to 8 bytes each; for a few rows at a time they take little memory.
    """
    result = np.empty(numbers.shape, dtype=table.dtype)
    for start in range(0, len(numbers), _BLOCK):
        rows = slice(start, start + _BLOCK)
        np.take(table, numbers[rows], out=result[rows], mode="clip")
    return result
