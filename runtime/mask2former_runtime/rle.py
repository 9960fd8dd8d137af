"""COCO's run-length encoding of masks (`rleEncode` and `rleToString` of its API).

Shapes:
    H, W: height and width of a mask, h, w: of a part of it, R: runs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_BITS, _FIRST = 5, 48  # a character holds five bits and whether more follow; the first is "0"


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Return the lengths of the runs of a mask (H, W), column by column: (R,) int64.

    They are those of pixels outside and inside of the mask in turn; the first may be 0.
    """
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return np.array([height * width])
    first, last = int(columns[0]), int(columns[-1]) + 1
    inside = np.zeros(height * (last - first) + 2, bool)
    inside[1:-1] = mask[:, first:last].T.reshape(-1)
    changes = np.flatnonzero(inside[1:] != inside[:-1]) + first * height
    end = [] if changes[-1] == mask.size else [mask.size]
    return np.diff([0, *changes.tolist(), *end])


def encode(mask: np.ndarray) -> tuple[str, int]:
    """Encode a mask.

    Args:
        mask: (H, W) bool.

    Returns:
        The ``counts`` of COCO's compressed RLE, and the area of the mask in pixels.
    """
    return _compressed(run_lengths(mask))


def encode_parts(
    parts: Iterable[tuple[tuple[int, int], np.ndarray]], size: tuple[int, int]
) -> tuple[str, int]:
    """Encode a mask of which parts are given, as `encode` does the whole mask.

    Args:
        parts: (row, column) of the first pixel of each part, and its pixels (h, w), bool. Parts
            follow one another from left to right, and share no column.
        size: (H, W).
    """
    height, width = size
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for (top, left), mask in parts:
        rows = mask.shape[0] + 1
        inside = np.zeros((mask.shape[1], rows), np.int8)
        inside[:, :-1] = mask.T
        steps = np.diff(inside.reshape(-1), prepend=0)
        for places, value in ((starts, 1), (ends, -1)):
            columns, places_in_column = np.divmod(np.flatnonzero(steps == value), rows)
            places.append((columns + left) * height + places_in_column + top)
    start, end = np.concatenate(starts), np.concatenate(ends)
    if not len(start):
        return _compressed(np.array([height * width]))
    # What ends at the foot of a column may go on at the head of the next.
    whole = start[1:] != end[:-1]
    edges = np.stack((start[np.append(True, whole)], end[np.append(whole, True)]), axis=1)
    lengths = np.diff([0, *edges.reshape(-1).tolist(), height * width])
    return _compressed(lengths[: len(lengths) - (lengths[-1] == 0)])


def _compressed(lengths: np.ndarray) -> tuple[str, int]:
    values = lengths.copy()
    values[3:] -= lengths[1:-2]  # less the last run of the same kind, from the fourth run on
    characters = []
    more = np.ones(len(values), bool)
    while more.any():
        digits = values & 31
        values >>= _BITS
        used = more
        more = used & (values != np.where(digits & 16, -1, 0))
        characters.append(np.where(used, digits + 32 * more + _FIRST, 0))
    text = np.stack(characters, axis=1).astype(np.uint8)
    return text[text > 0].tobytes().decode("ascii"), int(lengths[1::2].sum())
