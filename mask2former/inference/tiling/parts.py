"""Objects as single tiles show them.

Shapes:
    N: objects, H, W: height and width of a tile, h, w: of the box around an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mask2former_runtime import bit_planes
from mask2former_runtime.predictions import InstancePrediction, PanopticPrediction

from .grid import Grid, Region

Arrays = dict[str, np.ndarray]
Found = InstancePrediction | PanopticPrediction


@dataclass(frozen=True, eq=False)
class Part:
    """What one tile shows of an object.

    Attributes:
        tile: number of the tile.
        number: of the object within the tile: its position, or its value in a map.
        label: class.
        score: from 0 to 1.
        region: the box around it, in the image.
        cut: at which edges of the tile it may go on; see `Grid.cut`.
        bits: its pixels within the box, (h, w / 8) uint8: eight of a row to a byte.
    """

    tile: int
    number: int
    label: int
    score: float
    region: Region
    cut: int
    bits: np.ndarray

    def within(self, region: Region) -> np.ndarray:
        """Return its pixels within a region of the image, bool."""
        found = np.zeros(region.size, bool)
        shared = self.region.intersection(region)
        if not shared.empty:
            rows, columns = shared.slices(self.region)
            first = columns.start // 8
            bits = self.bits[rows, first : -(-columns.stop // 8)]
            pixels = np.unpackbits(bits, axis=1, count=columns.stop - 8 * first).view(bool)
            found[shared.slices(region)] = pixels[:, columns.start - 8 * first :]
        return found


def arrays_of_instances(found: InstancePrediction) -> Arrays:
    """Return the objects of a tile as arrays that take little room; `parts_of` reads them."""
    return _packed(found, range(len(found)), np.arange(len(found)))


def arrays_of_segments(found: PanopticPrediction) -> Arrays:
    """Return the map of a tile, what its values mean, and its things as `arrays_of_instances` does.

    The map ``values`` is (H, W). Stuff has ``stuff_numbers`` in it, ``stuff_labels`` and
    ``stuff_scores``.
    """
    isthing = np.array(found.isthing, bool)
    numbers = np.array(found.numbers, np.int64)
    return {
        **_packed(found, np.flatnonzero(isthing).tolist(), numbers),
        "values": found.values,
        "stuff_numbers": numbers[~isthing],
        "stuff_labels": found.labels[~isthing],
        "stuff_scores": found.scores[~isthing],
    }


def _packed(found: Found, positions: Iterable[int], numbers: np.ndarray) -> Arrays:
    chosen: list[int] = []
    boxes, bits = [], []
    for i in positions:
        left, top, right, bottom = found.boxes[i].astype(int).tolist()
        if bottom > 0:
            chosen.append(i)
            boxes.append((top, left, bottom, right))
            mask = _within_box(found, i, (slice(top, bottom), slice(left, right)))
            bits.append(np.packbits(mask, axis=1).reshape(-1))
    return {
        "numbers": np.array(numbers[chosen], np.int64),
        "labels": np.array(found.labels[chosen], np.int64),
        "scores": np.array(found.scores[chosen], np.float32),
        "boxes": np.array(boxes, np.int64).reshape(-1, 4),
        "lengths": np.array([len(b) for b in bits], np.int64),
        "bits": np.concatenate(bits) if bits else np.zeros(0, np.uint8),
    }


def _within_box(found: Found, i: int, box: tuple[slice, slice]) -> np.ndarray:
    """Return the mask of an object within its box, without making the rest of it."""
    if isinstance(found, PanopticPrediction):
        return found.values[box] == found.numbers[i]
    return bit_planes.unpack(found.planes[:, box[0], box[1]], i)


def parts_of(arrays: Mapping[str, np.ndarray], grid: Grid, tile: int) -> list[Part]:
    """Return the objects of a tile but those that another tile shows with more around them.

    Args:
        arrays: of `arrays_of_instances` or `arrays_of_segments`.
        grid: the tiles.
        tile: number of the tile.
    """
    top, left = grid.tile(tile)[:2]
    names = ("numbers", "labels", "scores", "boxes", "lengths")
    columns = [arrays[name].tolist() for name in names]
    all_bits = arrays["bits"]
    parts, end = [], 0
    for number, label, score, box, length in zip(*columns, strict=True):
        start, end = end, end + length
        region = Region(box[0] + top, box[1] + left, box[2] + top, box[3] + left)
        if not grid.seen_better(region, tile):
            cut = grid.cut(region, tile)
            bits = all_bits[start:end].reshape(region.size[0], -1)
            parts.append(Part(tile, number, label, score, region, cut, bits))
    return parts
