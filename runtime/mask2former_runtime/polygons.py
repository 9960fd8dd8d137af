"""Outlines of masks as polygons.

Shapes:
    H, W: height and width of a mask, P: points of a polygon.
"""

from __future__ import annotations

import numpy as np

_Edge = tuple[int, tuple[int, int]]
"""A straight edge: direction (0 right, 1 down, 2 left, 3 up), and the point (x, y) at its end."""


def mask_to_polygons(mask: np.ndarray, tolerance: float = 0.0) -> list[np.ndarray]:
    """Trace the outlines of a mask along the edges of its pixels.

    Filled by the even-odd rule, the polygons are exactly the mask if the tolerance is 0. Pixels
    that touch only at a corner belong to different polygons.

    Args:
        mask: (H, W) bool.
        tolerance: leave out points that are at most this many pixels away from the simplified
            outline (Douglas and Peucker).

    Returns:
        Polygons (P, 2), float32, of x and y in pixels, from 0 to W and to H: integers, unless
        simplified away. Outer outlines run clockwise on the screen, holes counter-clockwise. Those
        that the tolerance reduces to a line are left out.
    """
    starts = _edges(mask)
    polygons = []
    while starts:
        ring = _trace(starts)
        if tolerance > 0:
            ring = _simplified(ring, tolerance)
        if len(ring) >= 3:
            polygons.append(ring)
    return polygons


def polygon_area(polygon: np.ndarray) -> float:
    """Return the area of a polygon (P, 2) in square pixels, negative for a hole."""
    x, y = polygon[:, 0].astype(np.float64), polygon[:, 1].astype(np.float64)
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[_Edge]]:
    """Return the straight edges between mask and rest, each with the mask on its right.

    Returns:
        For each point where edges begin, the edges. Two begin where two pixels of
        the mask touch at a corner.
    """
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), np.int8)
    padded[1:-1, 1:-1] = mask
    starts: dict[tuple[int, int], list[_Edge]] = {}
    # The mask is below an edge to the right, and left of an edge down.
    for axis in (0, 1):
        change = np.diff(padded, axis=axis)  # 1 where the mask begins
        lines = change[:, 1:-1] if axis == 0 else change[1:-1].T
        for position, first, last, sign in _runs(lines):
            near, far = (first, position), (last, position)
            if axis == 1:
                near, far = near[::-1], far[::-1]
            if (sign > 0) == (axis == 0):
                starts.setdefault(near, []).append((axis, far))
            else:  # the other way round
                starts.setdefault(far, []).append((axis + 2, near))
    return starts


def _runs(lines: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return runs of 1 and of -1 in the rows of an array: row, first, last + 1, value."""
    rows, columns = lines.shape
    padded = np.zeros((rows, columns + 2), np.int8)
    padded[:, 1:-1] = lines
    before, here = padded[:, :-1], padded[:, 1:]
    ends = before != here
    begin_rows, begins = np.nonzero(ends & (here != 0))
    _, stops = np.nonzero(ends & (before != 0))
    values = here[begin_rows, begins]
    return list(
        zip(begin_rows.tolist(), begins.tolist(), stops.tolist(), values.tolist(), strict=True)
    )


def _trace(starts: dict[tuple[int, int], list[_Edge]]) -> np.ndarray:
    """Take the edges of one outline out of `starts`, and return its corners (P, 2)."""
    first = point = next(iter(starts))
    direction = starts[first][0][0] - 1
    ring: list[tuple[int, int]] = []
    while not ring or point != first:
        ring.append(point)
        choices = starts[point]
        # At a corner that two pixels share, a right turn stays at the same pixel.
        turns = [(choice[0] - direction - 1) % 4 for choice in choices]
        direction, end = choices.pop(turns.index(min(turns)))
        if not choices:
            del starts[point]
        point = end
    return np.array(ring, np.float32)


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Leave out points of a closed polygon, which begins at a corner that stays."""
    far = int(np.linalg.norm(ring - ring[0], axis=1).argmax())
    kept = np.zeros(len(ring) + 1, bool)
    kept[[0, far, len(ring)]] = True
    closed = np.concatenate([ring, ring[:1]])
    parts = [(0, far), (far, len(ring))]
    while parts:
        begin, end = parts.pop()
        if end - begin < 2:
            continue
        distances = _distances(closed[begin + 1 : end], closed[begin], closed[end])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            middle = begin + 1 + worst
            kept[middle] = True
            parts += [(begin, middle), (middle, end)]
    return ring[kept[:-1]]


def _distances(points: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distances of points (P, 2) from the line segment between two others."""
    line = (end - begin).astype(np.float64)
    length = float(line @ line)
    offsets = points - begin
    along = np.clip(offsets @ line / length, 0, 1) if length else np.zeros(len(points))
    return np.linalg.norm(offsets - along[:, None] * line, axis=1)
