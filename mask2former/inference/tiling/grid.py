"""Where the tiles of an image lie, and which tile decides about each pixel.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ...utils.size import Size

DEFAULT_OVERLAP = 0.2
MOST_OVERLAP = 0.9
LEAST_TILE = 32
"""The least side of a tile in pixels: a network makes maps of one pixel for each 32."""

_NEAR = 64
"""What is nearer to an edge than this part of a tile's side may be cut off there: about the size of
four pixels of a network's masks."""

TOP, LEFT, BOTTOM, RIGHT = 1, 2, 4, 8
"""Edges of a tile, as bits."""


class Region(NamedTuple):
    """A rectangle of pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> Size:
        """(height, width), 0 at least."""
        return max(0, self.bottom - self.top), max(0, self.right - self.left)

    @property
    def empty(self) -> bool:
        """Whether there is no pixel in it."""
        return 0 in self.size

    def intersection(self, other: Region) -> Region:
        """Return what two rectangles share, which may be empty."""
        return Region(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def contains(self, other: Region) -> bool:
        """Return whether another rectangle lies within this one."""
        return self.intersection(other) == other

    def slices(self, corner: Region) -> tuple[slice, slice]:
        """Return the rows and columns of this in an array that begins where `corner` does."""
        return (
            slice(self.top - corner.top, self.bottom - corner.top),
            slice(self.left - corner.left, self.right - corner.left),
        )


@dataclass(frozen=True)
class Tiling:
    """How images are divided.

    Attributes:
        size: side of the square tiles in pixels.
        overlap: least share of a tile's side that it has in common with the next tile, 0 to 0.9.

    Raises:
        ValueError: a number is out of its range.
    """

    size: int
    overlap: float = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not isinstance(self.overlap, int | float):
            raise ValueError(
                f"tile {self.size!r}, overlap {self.overlap!r}: a whole number and a number"
            )
        if self.size < LEAST_TILE:
            raise ValueError(
                f"tile {self.size}: the side of a tile is at least {LEAST_TILE} pixels"
            )
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise ValueError(
                f"overlap {self.overlap:g}: it is a share of a tile, from 0 to {MOST_OVERLAP:g}"
            )

    def spans(self, length: int) -> list[tuple[int, int]]:
        """Return where tiles begin and end along a side of an image of this length in pixels.

        They are as few as the overlap allows, and spread evenly.
        """
        if length <= self.size:
            return [(0, length)]
        step = max(1, int(self.size * (1 - self.overlap)))
        gaps = -(-(length - self.size) // step)
        starts = [i * (length - self.size) // gaps for i in range(gaps + 1)]
        return [(start, start + self.size) for start in starts]


class Grid:
    """The tiles of an image, row by row.

    Args:
        image_size: (H, W).
        tiling: how to divide it.
    """

    def __init__(self, image_size: Size, tiling: Tiling):
        self.image_size = image_size
        self.rows, self.columns = map(tiling.spans, image_size)
        self._near = max(1, tiling.size // _NEAR)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def tile(self, i: int) -> Region:
        """Return the place of a tile."""
        row, column = divmod(i, len(self.columns))
        (top, bottom), (left, right) = self.rows[row], self.columns[column]
        return Region(top, left, bottom, right)

    def zone(self, i: int) -> Region:
        """Return the pixels that are nearer to the middle of this tile than to any other's.

        The zones of all tiles divide the image.
        """
        row, column = divmod(i, len(self.columns))
        (top, bottom), (left, right) = _zone(self.rows, row), _zone(self.columns, column)
        return Region(top, left, bottom, right)

    def near(self, region: Region) -> list[int]:
        """Return the tiles that overlap a region or touch it at an edge or a corner."""
        rows = _touched(self.rows, region.top, region.bottom)
        columns = _touched(self.columns, region.left, region.right)
        return [r * len(self.columns) + c for r in rows for c in columns]

    def cut(self, region: Region, i: int) -> int:
        """Return at which edges of tile i a region of it may go on in the image, as bits.

        That is where it touches the edge or nearly does: masks are coarser than pixels.
        """
        tile, (height, width) = self.tile(i), self.image_size
        near = self._near
        return (
            TOP * (region.top - near < tile.top > 0)
            | LEFT * (region.left - near < tile.left > 0)
            | BOTTOM * (region.bottom + near > tile.bottom < height)
            | RIGHT * (region.right + near > tile.right < width)
        )

    def seen_better(self, region: Region, i: int) -> bool:
        """Return whether another tile has all of a region of tile i, and more around it.

        That is where the other cuts it off at fewer of its edges. Following from tile to tile ends
        at one for which this is false.
        """
        cut = self.cut(region, i)
        for j in self.near(region) if cut else ():
            other = self.cut(region, j)
            if self.tile(j).contains(region) and other & cut == other != cut:
                return True
        return False


def _zone(spans: list[tuple[int, int]], i: int) -> tuple[int, int]:
    start, end = spans[i]
    if i > 0:
        start = (spans[i - 1][1] + start) // 2
    if i + 1 < len(spans):
        end = (end + spans[i + 1][0]) // 2
    return start, end


def _touched(spans: list[tuple[int, int]], start: int, end: int) -> list[int]:
    return [i for i, span in enumerate(spans) if span[0] <= end and start <= span[1]]
