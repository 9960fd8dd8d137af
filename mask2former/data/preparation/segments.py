"""Derive areas, boxes and panoptic PNG files from a map of small numbers.

Shapes:
    H, W: height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from mask2former_runtime.maps import ids_to_rgb

from ..segment_labels import NUM_SEGMENT_IDS


def regions_of(numbers: np.ndarray) -> dict[int, dict[str, Any]]:
    """Return area and bbox (x, y, width, height) of each number in a map except 0, ascending.

    Args:
        numbers: (H, W) whole numbers from 0 to some thousands.
    """
    areas = np.bincount(numbers.reshape(-1))
    regions = {}
    for number, slices in enumerate(ndimage.find_objects(numbers), start=1):
        if slices is not None:
            y, x = slices
            bbox = [x.start, y.start, x.stop - x.start, y.stop - y.start]
            regions[number] = {"area": int(areas[number]), "bbox": bbox}
    return regions


def distinct_id(number: int) -> int:
    """Return a segment id for `number`, such that neighbouring numbers have different colours."""
    return number * 0x5D3B97 % NUM_SEGMENT_IDS  # an odd factor permutes the 24-bit numbers


def panoptic_of(
    numbers: np.ndarray, categories: Mapping[int, int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the pixels of a panoptic PNG and its segments in COCO's format.

    Args:
        numbers: (H, W) as for `regions_of`: the segment of each pixel, 0 for void.
        categories: category id of each number.

    Returns:
        (H, W, 3) uint8, id = R + 256 G + 65536 B, and the segments in the order of their numbers.
    """
    ids = np.zeros(int(numbers.max(initial=0)) + 1, dtype=np.int32)
    segments = []
    for position, (number, region) in enumerate(regions_of(numbers).items(), start=1):
        ids[number] = distinct_id(position)
        segment = {"id": int(ids[number]), "category_id": categories[number], **region}
        segments.append({**segment, "iscrowd": 0})
    return ids_to_rgb(ids[numbers]), segments
