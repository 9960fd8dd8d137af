"""One map of the segments that tiles show: things are joined, stuff of one class is one segment.

Shapes:
    H, W: height and width of the image, h, w: of a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .grid import Grid, Region
from .joining import Joiner
from .parts import parts_of

_LEFT_TO_OTHERS = -1


class PanopticMap:
    """Segments of an image from those of its tiles.

    Each pixel is as in the tile that has it nearest to its middle. Where that tile shows a part
    that is left to another tile (see `joining`), or a part of what others show whole, the nearest
    other tile decides.

    Args:
        grid: the tiles.
        load: gives the arrays of a tile; see `arrays_of_segments`.

    Attributes:
        segments: ``id`` (from 1), ``category_id``, ``isthing`` and ``score`` of each segment.
    """

    def __init__(self, grid: Grid, load: Callable[[int], Mapping[str, np.ndarray]]):
        self.grid = grid
        self.load = load
        self.segments: list[dict[str, Any]] = []
        # The id of each value in the map of each tile.
        self._ids: list[np.ndarray] = []
        joiner, stuff = Joiner(grid), dict[int, int]()
        for tile in range(len(grid)):
            arrays = load(tile)
            self._ids.append(_no_ids(arrays))
            self._add_stuff(arrays, self._ids[tile], stuff)
            joiner.add(tile, parts_of(arrays, grid, tile))
            for found in joiner.finished(tile):
                id_ = self._add(found.label, True, found.score)
                for part in found.whole_parts or found.parts:
                    self._ids[part.tile][part.number] = id_

    def _add_stuff(
        self, arrays: Mapping[str, np.ndarray], ids: np.ndarray, stuff: dict[int, int]
    ) -> None:
        names = ("stuff_numbers", "stuff_labels", "stuff_scores")
        for number, label, score in zip(*(arrays[name].tolist() for name in names), strict=True):
            if label not in stuff:
                stuff[label] = self._add(label, False, score)
            ids[number] = stuff[label]
            segment = self.segments[stuff[label] - 1]
            segment["score"] = max(segment["score"], score)

    def _add(self, label: int, isthing: bool, score: float) -> int:
        id_ = len(self.segments) + 1
        self.segments.append({"id": id_, "category_id": label, "isthing": isthing, "score": score})
        return id_

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return the ids of segments in some rows of the image, 0 where there is none: int32."""
        band = Region(first, 0, last, self.grid.image_size[1])
        found = np.empty(band.size, np.int32)
        for tile in self.grid.near(band):
            place = self.grid.zone(tile).intersection(band)
            if not place.empty:
                found[place.slices(band)] = self._decided(tile, place)
        return found

    def _decided(self, tile: int, place: Region) -> np.ndarray:
        """Return the ids (h, w) in a place in the zone of a tile."""
        ids = self._seen(tile, place)
        missing = ids == _LEFT_TO_OTHERS
        if not missing.any():
            return ids
        for other in self._by_distance(tile):
            shared = self.grid.tile(other).intersection(place)
            if shared.empty:
                continue
            seen, where = self._seen(other, shared), shared.slices(place)
            ids[where] = np.where(missing[where], seen, ids[where])
            missing = ids == _LEFT_TO_OTHERS
            if not missing.any():
                return ids
        ids[missing] = 0
        return ids

    def _seen(self, tile: int, place: Region) -> np.ndarray:
        values = self.load(tile)["values"][place.slices(self.grid.tile(tile))]
        return self._ids[tile][values]

    def _by_distance(self, tile: int) -> list[int]:
        """Return the tiles that share pixels with one, those with the nearest middles first."""
        here = np.array(self.grid.tile(tile))

        def distance(other: int) -> float:
            return float(np.square(np.array(self.grid.tile(other)) - here).sum())

        others = [i for i in self.grid.near(self.grid.tile(tile)) if i != tile]
        return sorted(others, key=distance)


def _no_ids(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a table for the values in a map, in which all of them are left to others."""
    numbers = np.concatenate((arrays["numbers"], arrays["stuff_numbers"]))
    ids = np.full(int(numbers.max(initial=0)) + 1, _LEFT_TO_OTHERS, np.int32)
    ids[0] = 0
    return ids
