"""The class of each pixel from the scores of all tiles that show it.

The scores of a tile count in proportion to the pixel's distances from its borders, so that they
fade in and out where tiles overlap. Where all tiles find the same class best, it is the result.

Tiles divide the image into cells that each lie in the same tiles. Of a cell, the sum of scores is
kept until the last of its tiles has come, and then the class of each pixel alone.

Shapes:
    K: classes, T: height or width of a tile, h, w: size of a cell.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .grid import Grid, Region
from .store import Store


class _Cell(NamedTuple):
    """A part of the image, and the last of the tiles that show it."""

    name: str
    place: Region
    last_tile: int


class SemanticBlend:
    """Collects the scores of the tiles of an image.

    Args:
        grid: the tiles.
        num_classes: K.
        store: keeps the cells.
    """

    def __init__(self, grid: Grid, num_classes: int, store: Store):
        self.grid = grid
        self.num_classes = num_classes
        self.store = store
        self._rows = _intervals(grid.rows)
        self._columns = _intervals(grid.columns)

    def has(self, tile: int) -> bool:
        """Return whether a tile was added to all of its cells."""
        return all(self._added(cell) >= tile for cell in self._cells(self.grid.tile(tile)))

    def add(self, tile: int, scores: np.ndarray) -> None:
        """Add the scores (K, T, T) of a tile. Tiles come in their order.

        Cells that have the tile already, from a run that was interrupted, stay as they are.
        """
        place = self.grid.tile(tile)
        heights, widths = _weights(place.size[0]), _weights(place.size[1])
        for cell in self._cells(place):
            earlier = self.store.load(cell.name)
            if earlier is not None and earlier["last"] >= tile:
                continue
            rows, columns = cell.place.slices(place)
            total = scores[:, rows, columns] * heights[rows, None] * widths[columns]
            if earlier is not None:
                total += earlier["total"]
            if cell.last_tile == tile:
                labels = total.argmax(0).astype(np.min_scalar_type(self.num_classes))
                self.store.save(cell.name, {"last": np.array(tile), "labels": labels})
            else:
                arrays = {"last": np.array(tile), "total": total}
                self.store.save(cell.name, arrays, compress=False)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return the classes of the pixels in some rows, when all tiles are added."""
        band = Region(first, 0, last, self.grid.image_size[1])
        labels = np.empty(band.size, np.min_scalar_type(self.num_classes))
        for cell in self._cells(band):
            shared = cell.place.intersection(band)
            arrays = self.store.load(cell.name)
            assert arrays is not None
            labels[shared.slices(band)] = arrays["labels"][shared.slices(cell.place)]
        return labels

    def _cells(self, region: Region) -> Iterator[_Cell]:
        """Yield the cells that share pixels with a region."""
        for r in _within(self._rows, region.top, region.bottom):
            for c in _within(self._columns, region.left, region.right):
                top, bottom, last_row = self._rows[r]
                left, right, last_column = self._columns[c]
                yield _Cell(
                    name=f"cell-{r}-{c}",
                    place=Region(top, left, bottom, right),
                    last_tile=last_row * len(self.grid.columns) + last_column,
                )

    def _added(self, cell: _Cell) -> int:
        """Return the last tile that was added to a cell, -1 for none."""
        arrays = self.store.load(cell.name)
        return -1 if arrays is None else int(arrays["last"])


def _intervals(spans: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return the intervals between all beginnings and ends of spans, with the last span of each."""
    edges = sorted({edge for span in spans for edge in span})
    return [
        (start, end, max(i for i, span in enumerate(spans) if span[0] <= start < span[1]))
        for start, end in itertools.pairwise(edges)
    ]


def _within(intervals: list[tuple[int, int, int]], start: int, end: int) -> range:
    """Return which intervals share something with [start, end)."""
    first = bisect.bisect_right(intervals, start, key=lambda interval: interval[1])
    return range(first, bisect.bisect_left(intervals, end, key=lambda interval: interval[0]))


def _weights(length: int) -> np.ndarray:
    """Return the distance of each pixel's middle from the nearer end, (length,) float32."""
    places = np.arange(length, dtype=np.float32) + 0.5
    return np.minimum(places, length - places)
