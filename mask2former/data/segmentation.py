"""Reading COCO segmentations (polygons and run lengths), with an exact reason for a bad one.

Functions raise a plain `ValueError` with the reason. Callers know the file and the ids, and add
them.

Shapes:
    H, W: height and width of the image, h, w: of its upper left part, V: polygon vertices, R: runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import pycocotools.mask as mask_util

MAX_PIXELS = 1 << 30
"""The most pixels of an image or a mask. Sums of run lengths are exact below this."""
# pycocotools writes five points per pixel of an outline to memory, each at least 16 bytes, as
# 32-bit integers and without checks. It also takes polygons of 4 numbers for boxes.
# Polygons may reach beyond an image by this many pixels, plus this many times its longer side.
_REACH = 10_000, 10
_MAX_OUTLINE = 10_000_000
_MAX_SCALE = 8  # how many times augmentation may enlarge an outline
_MAX_COORDINATE = 1 << 28
# Digits of 5 bits that the difference of two 32-bit numbers can have.
_MAX_DIGITS = 7


def is_whole_number(value: Any) -> TypeGuard[int]:
    """Return whether `value` is an integer of Python or NumPy, and not a bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_sides(height: Any, width: Any) -> None:
    """Raise `ValueError` unless the height and the width of an image are usable."""
    if not all(is_whole_number(side) and side > 0 for side in (height, width)):
        raise ValueError(
            f"the height and width of the image are {[height, width]!r:.100}; whole numbers above "
            "0 are needed"
        )
    if height * width > MAX_PIXELS:
        raise ValueError(f"images of more than {MAX_PIXELS} pixels are not supported")


def parse_polygon(polygon: Any, height: int, width: int) -> np.ndarray:
    """Return one polygon ``[x0, y0, x1, y1, ...]`` as a new (V, 2) float64 array, V >= 3.

    Polygons may reach beyond the image by 10,000 pixels plus ten times its longer side.

    Args:
        polygon: the coordinates in pixels.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Raises:
        ValueError: the polygon is not a flat sequence of finite numbers, of even length at least 6;
            it reaches further beyond the image; or its outline is longer than 10 million pixels.
    """
    if isinstance(polygon, (int, float)):
        raise ValueError(
            "a flat list of numbers: polygons are a list of lists, [[x0, y0, x1, y1, ...], ...]"
        )
    try:
        array = np.array(polygon)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError("a polygon is not a list of numbers") from None
    if array.dtype.kind not in "iuf":  # texts, or integers of more than 64 bits
        raise ValueError("a polygon is not a list of numbers of at most 64 bits")
    coordinates = array.astype(np.float64)
    if coordinates.ndim != 1:
        raise ValueError("a polygon is not a flat list of numbers [x0, y0, x1, y1, ...]")
    if len(coordinates) % 2:
        raise ValueError(f"a polygon has an odd number of coordinates ({len(coordinates)})")
    if len(coordinates) < 6:
        raise ValueError(f"a polygon has {len(coordinates)} coordinates; at least 6 are needed")
    if not np.isfinite(coordinates).all():
        raise ValueError("a polygon has a coordinate that is NaN or infinite")
    check_sides(height, width)
    reach = _REACH[0] + _REACH[1] * max(height, width)
    furthest = coordinates[np.abs(coordinates).argmax()]
    if not -reach <= furthest <= reach:
        raise ValueError(
            f"a polygon has the coordinate {furthest:g}, far outside the {width}x{height} image"
        )
    points = coordinates.reshape(-1, 2)
    _check_outline(points, _MAX_OUTLINE)
    return points


def _check_outline(points: np.ndarray, most: int) -> None:
    """Raise `ValueError` if tracing the outline of (V, 2) points takes more than `most` steps."""
    steps = np.abs(np.diff(points, axis=0)).max(axis=1, initial=0).sum()
    if steps > most:
        raise ValueError(f"a polygon has an outline of {steps:.3g} pixels; {most:.3g} are possible")


def rasterize_polygons(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterise the union of (V, 2) polygons, which may reach beyond the image.

    It uses COCO's rasteriser, so outlines that cross themselves are filled as in COCO's evaluation.

    Returns:
        (h, w) bool, with contiguous columns: the upper left part of the (`height`, `width`) mask.
        The polygons do not reach the rest of the mask, which is False.

    Raises:
        ValueError: the polygons are too large to draw. The limits of `parse_polygon` prevent this,
            unless augmentation enlarges the image very much.
    """
    points = np.concatenate(polygons) if polygons else np.zeros((1, 2))
    if not np.abs(points).max() <= _MAX_COORDINATE:
        raise ValueError("a polygon is too large to be drawn")
    for polygon in polygons:
        _check_outline(polygon, _MAX_SCALE * _MAX_OUTLINE)
    # Two pixels more than the polygons can touch. Smaller masks are faster to draw.
    w, h = (np.clip(points.max(axis=0), -2, (width, height)) + 2).astype(int)
    w, h = min(w, width), min(h, height)
    if not polygons or w == 0 or h == 0 or (points.min(axis=0) > (width, height)).any():
        return np.zeros((0, 0), dtype=bool)
    rles = mask_util.frPyObjects([p.reshape(-1).tolist() for p in polygons], h, w)
    return mask_util.decode(mask_util.merge(rles)).view(bool)


def run_lengths(counts: Any) -> np.ndarray:
    """Return the (R,) int64 run lengths in compressed or plain COCO ``counts``.

    The first run is background. The compressed form stores each length in groups of five bits, one
    per character, low bits first. Bit 5 is set in all but the last character, whose bit 4 is the
    sign. From the fourth length on, it stores the difference from the length two places before.

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
        try:
            array = np.asarray(counts)
        except (ValueError, OverflowError, RecursionError):
            array = np.zeros((0, 0))
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
        raise ValueError("RLE counts do not decode: they have a character that RLE does not use")
    ends = np.flatnonzero(values < 32)
    if not len(ends) or ends[-1] != len(values) - 1:
        raise ValueError("RLE counts do not decode: the last number is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > _MAX_DIGITS:
        raise ValueError("RLE counts do not decode: a number has too many digits")
    place = np.arange(len(values)) - np.repeat(starts, digits)
    numbers = np.add.reduceat((values & 31) << (5 * place), starts)
    numbers -= np.where(values[ends] & 16, 1 << (5 * digits), 0)
    # Undo the differences: lengths 1, 3, 5, ... and lengths 2, 4, 6, ... are two running sums.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def checked_run_lengths(rle: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Return the run lengths of a COCO RLE dict after checking its size.

    Args:
        rle: ``size`` and ``counts``, compressed or not.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Raises:
        ValueError: keys are missing, ``size`` differs, or ``counts`` do not decode to that size.
    """
    check_sides(height, width)
    if "counts" not in rle or "size" not in rle:
        raise ValueError("an RLE needs the keys 'size' and 'counts'")
    size = rle["size"]
    if not isinstance(size, (list, tuple, np.ndarray)) or len(size) != 2:
        raise ValueError(f"RLE size {size!r:.100} is not [height, width]")
    if not all(is_whole_number(side) for side in size):
        raise ValueError(f"RLE size {size!r:.100} is not two whole numbers, [height, width]")
    if tuple(size) != (height, width):
        hint = ": width and height look swapped" if tuple(size) == (width, height) else ""
        raise ValueError(
            f"RLE size [height, width] is {list(size)}, the image is {[height, width]}{hint}"
        )
    runs = run_lengths(rle["counts"])
    covered = runs.sum(dtype=np.float64)  # integers could wrap; this is exact if it is right
    if covered != height * width:
        raise ValueError(
            f"RLE counts do not decode: they cover {covered:.0f} pixels, "
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
    # COCO counts along columns.
    return np.repeat(on, runs).reshape(width, height).T


def check_segmentation(segmentation: Any, size: tuple[Any, Any]) -> None:
    """Raise `ValueError` if polygons, or an RLE, for an image of this size are malformed.

    Polygons with fewer than three points are allowed: Detectron2 and COCO's evaluation skip them.
    """
    if isinstance(segmentation, Mapping):
        checked_run_lengths(segmentation, *size)
    elif isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) >= 6:
                parse_polygon(polygon, *size)
    else:
        raise ValueError("a segmentation is neither a list of polygons nor an RLE")


def area_and_box(segmentation: Any, size: tuple[Any, Any]) -> tuple[float, list[float]]:
    """Return the pixels of a mask and the box [x, y, width, height] around them.

    Args:
        segmentation: polygons or an RLE; polygons with fewer than three points are skipped.
        size: (height, width) of the image.

    Raises:
        ValueError: see `to_rle`.
    """
    if isinstance(segmentation, list):
        segmentation = [p for p in segmentation if not isinstance(p, list) or len(p) >= 6]
        if not segmentation:
            return 0.0, [0.0] * 4
    rle = to_rle(segmentation, size)
    return float(mask_util.area(rle)), mask_util.toBbox(rle).tolist()


def to_rle(segmentation: Any, size: tuple[Any, Any]) -> dict[str, Any]:
    """Convert COCO polygons, or an RLE of any kind, to a compressed RLE.

    Args:
        segmentation: a list of polygons, or a dict with ``size`` and ``counts``.
        size: (height, width) of the image.

    Raises:
        ValueError: the segmentation is neither, or belongs to an image of another size.
    """
    height, width = size
    if isinstance(segmentation, list) and segmentation:
        polygons = [parse_polygon(p, height, width).reshape(-1).tolist() for p in segmentation]
        return mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    if not isinstance(segmentation, Mapping):
        raise ValueError("a segmentation is neither a list of polygons nor an RLE")
    runs = checked_run_lengths(segmentation, height, width)
    if isinstance(segmentation["counts"], (str, bytes)):
        return {"size": [height, width], "counts": segmentation["counts"]}
    whole = {"size": [height, width], "counts": runs.tolist()}
    return mask_util.frPyObjects(whole, height, width)
