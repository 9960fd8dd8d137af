"""Joining what tiles show of the same objects.

1. What a tile cuts off and another tile shows with more around it is left to that tile
   (`Grid.seen_better`), whatever that tile finds there.
2. Of what two tiles show, two parts of one class are the same object if their masks agree where the
   tiles overlap: with an IoU of at least `SAME_IOU`, each part with one part of the other tile at
   most, the best first. Tiles that only touch have no such place: there the last pixels of one
   tile are compared with the first of the other.
3. Parts that are the same object, directly or by way of others, become one, unless tiles show all
   of two objects, in different places: a part between them, which is of both, is joined with the
   one that it is compared with first. The object's score is the greatest of its parts'. If a tile
   shows all of it, its mask is that of the surest of these parts. Otherwise each pixel is as in the
   tile that has it nearest to its middle, of those that show a part.

Shapes:
    h, w: height and width of the box around an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .grid import Grid, Region
from .parts import Part

SAME_IOU = 0.5
"""Least IoU, where two tiles overlap, of what is one object. Above one half, a mask agrees with no
two masks that do not overlap."""
BAND_PIXELS = 1 << 24
"""How many pixels of a mask are made at a time."""


@dataclass(eq=False)
class JoinedObject:
    """An object of the image.

    Attributes:
        grid: the tiles.
        parts: what tiles show of it, by number of the tile; one at least.
    """

    grid: Grid
    parts: list[Part] = field(default_factory=list)

    @property
    def label(self) -> int:
        """Its class."""
        return self.parts[0].label

    @property
    def score(self) -> float:
        """The greatest score of its parts."""
        return max(part.score for part in self.parts)

    @property
    def whole_parts(self) -> list[Part]:
        """Those of its parts that no tile cuts off."""
        return [part for part in self.parts if not part.cut]

    @property
    def region(self) -> Region:
        """A box that has all of its pixels."""
        edges = np.array([part.region for part in self._shown()])
        (top, left), (bottom, right) = edges[:, :2].min(0), edges[:, 2:].max(0)
        return Region(int(top), int(left), int(bottom), int(right))

    def bands(self, most_pixels: int = BAND_PIXELS) -> Iterator[tuple[Region, np.ndarray]]:
        """Yield its mask within `region`, some columns at a time: where they are, and (h, w) bool.

        Args:
            most_pixels: how many pixels a band may have, if it is more than one column.
        """
        region, parts = self.region, self._shown()
        step = max(1, most_pixels // region.size[0])
        for left in range(region.left, region.right, step):
            band = Region(region.top, left, region.bottom, min(left + step, region.right))
            mask = np.zeros(band.size, bool)
            for part in parts:
                shared = part.region.intersection(band)
                if not shared.empty:
                    mask[shared.slices(band)] |= self._kept(part, shared, parts)
            yield band, mask

    def mask(self) -> np.ndarray:
        """Return its mask within `region`: (h, w) bool."""
        return np.concatenate([mask for _, mask in self.bands()], axis=1)

    def _shown(self) -> list[Part]:
        whole = self.whole_parts
        return [max(whole, key=lambda part: part.score)] if whole else self.parts

    def _kept(self, part: Part, region: Region, parts: list[Part]) -> np.ndarray:
        """Return a part within a region, less what other tiles that show a part decide about."""
        mask = part.within(region)
        for tile in {other.tile for other in parts} - {part.tile}:
            zone = self.grid.zone(tile).intersection(region)
            if not zone.empty:
                mask[zone.slices(region)] = False
        return mask


class Joiner:
    """Joins the parts of one tile after the other, row by row.

    Args:
        grid: the tiles.
    """

    def __init__(self, grid: Grid):
        self.grid = grid
        self._open: dict[Part, JoinedObject] = {}
        self._by_tile: dict[int, list[Part]] = {}

    def add(self, tile: int, parts: list[Part]) -> None:
        """Join the parts of the next tile with those of earlier ones."""
        for part in parts:
            self._open[part] = JoinedObject(self.grid, [part])
        for other in self.grid.near(self.grid.tile(tile)):
            if other < tile:
                self._join(parts, tile, self._by_tile.get(other, []), other)
        self._by_tile[tile] = parts

    def finished(self, tile: int) -> list[JoinedObject]:
        """Return, and forget, the objects that no tile after this one can add to.

        Objects come in the order of their first parts.
        """
        columns = len(self.grid.columns)
        row = tile // columns
        if (tile + 1) % columns:
            return []  # looked after once per row
        last = row + 1 == len(self.grid.rows)
        next_top = np.inf if last else self.grid.rows[row + 1][0]
        done, kept = [], {}
        # Objects of which a part may still be compared stay, and so do all of their parts.
        for found in dict.fromkeys(self._open.values()):
            if max(part.region.bottom for part in found.parts) < next_top:
                done.append(found)
            else:
                kept.update(dict.fromkeys(found.parts, found))
        self._open = kept
        self._by_tile = {
            i: [part for part in parts if part in kept] for i, parts in self._by_tile.items()
        }
        return done

    def _join(self, parts: list[Part], tile: int, others: list[Part], other: int) -> None:
        if not parts or not others:
            return
        places = _shared(self.grid.tile(tile), self.grid.tile(other))
        agreeing = []
        for i, part in enumerate(parts):
            for j, candidate in enumerate(others):
                if part.label == candidate.label:
                    iou = _agreement(part, candidate, *places)
                    if iou >= SAME_IOU:
                        agreeing.append((-iou, i, j))
        used: set[tuple[str, int]] = set()
        for _, i, j in sorted(agreeing):
            if not {("part", i), ("other", j)} & used:
                used |= {("part", i), ("other", j)}
                self._unite(others[j], parts[i])

    def _unite(self, first: Part, second: Part) -> None:
        one, other = self._open[first], self._open[second]
        if one is other or self._are_two(one, other, {first, second}):
            return
        one.parts.extend(other.parts)
        one.parts.sort(key=lambda part: (part.tile, part.number))
        self._open.update(dict.fromkeys(other.parts, one))

    def _are_two(self, one: JoinedObject, other: JoinedObject, agreeing: set[Part]) -> bool:
        """Return whether tiles show all of both objects, in different places."""
        image = Region(0, 0, *self.grid.image_size)
        return any(
            _agreement(part, candidate, image, image) < SAME_IOU
            for part in one.whole_parts
            for candidate in other.whole_parts
            if {part, candidate} != agreeing
        )


def _shared(tile: Region, other: Region) -> tuple[Region, Region]:
    """Return where two tiles are compared, in one and in the other: regions of one size."""
    shared = tile.intersection(other)
    one, two = list(shared), list(shared)
    for low in (0, 1):  # rows, columns
        high = low + 2
        if tile[low] == other[high]:
            one[low : high + 1 : 2] = tile[low], tile[low] + 1
            two[low : high + 1 : 2] = tile[low] - 1, tile[low]
        elif tile[high] == other[low]:
            one[low : high + 1 : 2] = tile[high] - 1, tile[high]
            two[low : high + 1 : 2] = tile[high], tile[high] + 1
    return Region(*one), Region(*two)


def _agreement(part: Part, other: Part, place: Region, other_place: Region) -> float:
    """Return the IoU of two parts where their tiles are compared, 0 if nothing is there."""
    here = part.region.intersection(place)
    there = other.region.intersection(other_place)
    if here.empty or there.empty:
        return 0.0
    if place == other_place:  # only the boxes matter, not all that the tiles share
        if here.intersection(there).empty:
            return 0.0
        place = other_place = Region(*map(min, here[:2], there[:2]), *map(max, here[2:], there[2:]))
    one, two = part.within(place), other.within(other_place)
    union = np.count_nonzero(one | two)
    return np.count_nonzero(one & two) / union if union else 0.0
