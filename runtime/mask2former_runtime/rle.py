"""COCO's run-length encoding of masks (`rleEncode` and `rleToString` of its API).

Shapes:
    H, W: height and width of a mask, R: runs.
"""

from __future__ import annotations

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
    lengths = run_lengths(mask)
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
