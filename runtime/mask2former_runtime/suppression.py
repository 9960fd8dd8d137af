"""Suppression of duplicates: of instances of a class that cover the same pixels, keep the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Box = tuple[int, int, int, int]
Overlap = Callable[[int, int, Box], int]


def without_duplicates(
    order: Sequence[int],
    labels: Sequence[int],
    boxes: Sequence[Sequence[float]],
    areas: Sequence[int],
    overlap: Overlap,
    most: float,
) -> list[int]:
    """Choose instances one after the other, without those that overlap a chosen one too much.

    Args:
        order: numbers of the instances, the best first.
        labels: class of each instance.
        boxes: tight box of each mask: left, top, right and bottom edge in whole pixels, right and
            bottom exclusive.
        areas: pixels of each mask.
        overlap: numbers of two instances and a box -> pixels that both have within the box. It is
            asked only for pairs that may overlap too much.
        most: an instance goes if the IoU of its mask with that of a chosen one of its class is
            greater than this, from 0 to 1.

    Returns:
        The numbers that stay, in their order.
    """
    chosen: dict[int, list[int]] = {}
    kept = []
    for i in order:
        rivals = chosen.setdefault(labels[i], [])
        if not any(_iou_above(most, i, j, boxes, areas, overlap) for j in rivals):
            rivals.append(i)
            kept.append(i)
    return kept


def overlap_of(parts: Mapping[int, np.ndarray], boxes: Sequence[Sequence[float]]) -> Overlap:
    """Return the overlap of masks (bool) that are given within their boxes, by number."""

    def part(i: int, box: Box) -> np.ndarray:
        x, y = int(boxes[i][0]), int(boxes[i][1])
        return parts[i][box[1] - y : box[3] - y, box[0] - x : box[2] - x]

    return lambda i, j, box: int(np.count_nonzero(part(i, box) & part(j, box)))


def _iou_above(
    most: float,
    i: int,
    j: int,
    boxes: Sequence[Sequence[float]],
    areas: Sequence[int],
    overlap: Overlap,
) -> bool:
    a, b = boxes[i], boxes[j]
    left, top = int(max(a[0], b[0])), int(max(a[1], b[1]))
    right, bottom = int(min(a[2], b[2])), int(min(a[3], b[3]))
    if right <= left or bottom <= top:
        return False
    total = areas[i] + areas[j]
    possible = min(areas[i], areas[j], (right - left) * (bottom - top))
    if possible / (total - possible) <= most:
        return False
    both = overlap(i, j, (left, top, right, bottom))
    return both / (total - both) > most
