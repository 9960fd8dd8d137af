"""Read COCO segmentations (polygons and run lengths) and say what is wrong with a bad one.

Functions raise a plain ValueError with the reason. Callers add the file and the ids, which they
know.

Shapes:
    H, W: image height and width.
    V: polygon vertices.
    R: runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util


def parse_polygon(polygon: Any) -> np.ndarray:
    """Return one polygon ``[x0, y0, x1, y1, ...]`` as a new (V, 2) float64 array, V >= 3.

    Raises:
        ValueError: it is not a sequence of an even count of finite numbers, at least six.
    """
    if isinstance(polygon, (int, float)):
        raise ValueError(
            "a flat list of numbers: polygons are a list of lists, [[x0, y0, x1, y1, ...], ...]"
        )
    try:
        coordinates = np.array(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("a polygon is not a list of numbers") from None
    if coordinates.ndim != 1:
        raise ValueError("a polygon is not a flat list of numbers [x0, y0, x1, y1, ...]")
    if len(coordinates) % 2:
        raise ValueError(f"a polygon has an odd number of coordinates ({len(coordinates)})")
    if len(coordinates) < 6:
        raise ValueError(f"a polygon has {len(coordinates)} coordinates; at least 6 are needed")
    if not np.isfinite(coordinates).all():
        raise ValueError("a polygon has a coordinate that is NaN or infinite")
    return coordinates.reshape(-1, 2)


def rasterize_polygons(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterise the union of (V, 2) polygons, which may reach beyond the image.

    This is COCO's own rasteriser, so outlines that cross themselves are filled as in COCO's
    evaluation.

    Returns:
        (h, w) bool, with columns contiguous: the upper left part of the (`height`, `width`) mask.
        The rest of the mask, which the polygons do not reach, is False.
    """
    points = np.concatenate(polygons) if polygons else np.zeros((1, 2))
    # Two pixels beyond the last one that can be touched. Smaller masks are faster to write.
    w, h = (np.clip(points.max(axis=0), -2, (width, height)) + 2).astype(int)
    w, h = min(w, width), min(h, height)
    if not polygons or w == 0 or h == 0 or (points.min(axis=0) > (width, height)).any():
        return np.zeros((0, 0), dtype=bool)
    rles = mask_util.frPyObjects([p.reshape(-1).tolist() for p in polygons], h, w)
    return mask_util.decode(mask_util.merge(rles)).view(bool)


def run_lengths(counts: Any) -> np.ndarray:
    """Return the (R,) int64 run lengths in compressed or plain COCO ``counts``.

    The first run is background. The compressed form stores each length in groups of five bits, the
    low bits first. Bit 5 is set on all but the last character; bit 4 of the last one is the sign.
    From the fourth length on, the difference from the length two places before is stored.

    Args:
        counts: str or bytes (compressed), or a sequence of integers.

    Raises:
        ValueError: `counts` has another type, or does not decode to non-negative lengths.
    """
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError("RLE counts hold a character that is not ASCII") from None
    if isinstance(counts, bytes):
        runs = _decompress(counts)
    else:
        array = np.asarray(counts)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise ValueError("RLE counts are neither a string nor a list of whole numbers")
        runs = array.astype(np.int64)
    if (runs < 0).any():
        raise ValueError("RLE counts do not decode: a run has a negative length")
    return runs


def _decompress(counts: bytes) -> np.ndarray:
    if not counts:
        raise ValueError("RLE counts are empty")
    values = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if values.min() < 0 or values.max() > 63:
        raise ValueError("RLE counts do not decode: there is a character that RLE does not use")
    ends = np.flatnonzero(values < 32)
    if not len(ends) or ends[-1] != len(values) - 1:
        raise ValueError("RLE counts do not decode: the last number is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > 12:
        raise ValueError("RLE counts do not decode: a number has too many digits")
    place = np.arange(len(values)) - np.repeat(starts, digits)
    numbers = np.add.reduceat((values & 31) << (5 * place), starts)
    numbers -= np.where(values[ends] & 16, 1 << (5 * digits), 0)
    # Undo the differences: lengths 1, 3, 5, ... and 2, 4, 6, ... are two running sums.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def checked_run_lengths(rle: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Return the run lengths of a COCO RLE dict after checking its size.

    Args:
        rle: ``size`` and ``counts``, compressed or not.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        ValueError: keys are missing, ``size`` differs, or ``counts`` do not decode to that size.
    """
    if "counts" not in rle or "size" not in rle:
        raise ValueError("an RLE needs the keys 'size' and 'counts'")
    size = rle["size"]
    if not isinstance(size, (list, tuple, np.ndarray)) or len(size) != 2:
        raise ValueError(f"RLE size {size!r} is not [height, width]")
    if tuple(size) != (height, width):
        hint = ": width and height look swapped" if tuple(size) == (width, height) else ""
        raise ValueError(
            f"RLE size [height, width] is {list(size)}, the image is {[height, width]}{hint}"
        )
    runs = run_lengths(rle["counts"])
    if runs.sum() != height * width:
        raise ValueError(
            f"RLE counts do not decode: they cover {runs.sum()} pixels, "
            f"the image has {height * width}"
        )
    return runs


def decode_rle(rle: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Decode a COCO RLE, compressed or not, to an (H, W) uint8 mask of zeros and ones.

    Raises:
        ValueError: see `checked_run_lengths`.
    """
    runs = checked_run_lengths(rle, height, width)
    on = (np.arange(len(runs)) % 2).astype(np.uint8)
    # COCO counts down the columns.
    return np.repeat(on, runs).reshape(width, height).T
