"""Objects in maps of pixels: their boxes, their connected pieces, and the room within them.

Shapes:
    H, W: height and width of the map, N: objects, R: runs of equal pixels in a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def boxes_of(values: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """Return the boxes of objects that are a value each in a map.

    Args:
        values: (H, W), integers from 0.
        keys: the values of N objects.

    Returns:
        (N, 4) int64: left, top, right and bottom edge, right and bottom exclusive; zeros where no
        pixel has the value.
    """
    width = values.shape[1]
    begins = np.ones(values.shape, bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    found = values.reshape(-1)[starts]
    rows, lefts = np.divmod(starts, width)
    rights = (np.append(starts[1:], values.size) - 1) % width + 1
    count = max([int(found.max(initial=0)), *keys]) + 1
    boxes = np.tile([width, values.shape[0], 0, 0], (count, 1))
    for column, edges in enumerate((lefts, rows, rights, rows + 1)):
        (np.minimum if column < 2 else np.maximum).at(boxes[:, column], found, edges)
    boxes[boxes[:, 2] == 0] = 0
    return boxes[list(keys)]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box of a mask (H, W), as in `boxes_of`; zeros if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def connected_pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the pieces of a mask whose pixels touch at an edge.

    Returns:
        (H, W) int32: the number of the piece of each pixel, from 1 in the order of their first
        pixels, or 0; and how many pieces there are.
    """
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    stride = padded.shape[1]
    steps = np.diff(padded.reshape(-1))
    starts, ends = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
    # The runs of the next row that each run touches are neighbours in the list.
    first = np.searchsorted(ends, starts + stride, "right")
    touched = np.searchsorted(starts, ends + stride, "left") - first
    above = np.repeat(np.arange(len(starts)), touched)
    below = np.arange(len(above)) + np.repeat(first - (touched.cumsum() - touched), touched)
    root = np.arange(len(starts))
    while (root[above] != root[below]).any():
        least = np.minimum(root[above], root[below])
        np.minimum.at(root, root[above], least)
        np.minimum.at(root, root[below], least)
        while (root[root] != root).any():
            root = root[root]
    roots, numbers = np.unique(root, return_inverse=True)
    pieces = np.zeros(mask.shape, np.int32)
    pieces[mask] = np.repeat(numbers + 1, ends - starts)
    return pieces, len(roots)


def room_within(mask: np.ndarray, aspect: int) -> np.ndarray:
    """Return how far each pixel of a mask is from the nearest one outside, or from the border.

    Args:
        mask: (H, W) bool.
        aspect: how many times a step up or down counts.

    Returns:
        (H, W) float64: Euclidean distances between the middles of pixels, 0 outside of the mask.
    """
    padded = np.pad(mask, 1)
    columns = np.arange(padded.shape[1], dtype=np.int32)
    before = np.maximum.accumulate(np.where(padded, 0, columns), axis=1)
    after = np.minimum.accumulate(np.where(padded, len(columns), columns)[:, ::-1], axis=1)
    within_row = np.minimum(columns - before, after[:, ::-1] - columns) ** 2
    squares = within_row.copy()
    step = 1
    while (cost := (aspect * step) ** 2) < squares.max():
        np.minimum(squares[step:], within_row[:-step] + cost, out=squares[step:])
        np.minimum(squares[:-step], within_row[step:] + cost, out=squares[:-step])
        step += 1
    return np.sqrt(squares[1:-1, 1:-1])


def ids_to_rgb(segment_ids: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) uint8 colours of (H, W) ids below 2**24: id = R + 256 G + 65536 B."""
    little_endian = np.ascontiguousarray(segment_ids, dtype="<i4")
    return np.ascontiguousarray(
        little_endian.view(np.uint8).reshape(*segment_ids.shape, 4)[..., :3]
    )
