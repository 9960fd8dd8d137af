"""The names of regions: on or at each region that has room for one, the others in a legend.

Shapes:
    h, w: height and width of the map that places are searched on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..maps import boxes_of, connected_pieces, room_within
from .colors import Color
from .labels import Box, LabelAnchor, LabelStyle, Point, draw_labels
from .legend import LegendEntry

# The search for places of labels uses a map of at most this many pixels per side.
_SEARCH_SIDE = 640
# A label is several times as wide as it is high, so it needs more room to the left and right.
_LABEL_ASPECT = 4
# How many places within a region to try.
_NUM_POINTS = 6
# A label of stuff lies on its region, or few would know what it names: the least share of its area.
_ON_REGION = 0.7
# A label of a thing touches it, up to this gap in label heights.
_GAP = 0.35
# The least areas of things and of stuff with a label, in areas of that label.
_LEAST_THING, _LEAST_STUFF = 0.12, 1.5


@dataclass(frozen=True)
class RegionLabel:
    """What is written on a region.

    Attributes:
        text: the label.
        name: the name in the legend, where regions of one name share an entry.
        color: of the region.
        is_thing: whether the region is an object, which its label may stand beside.
    """

    text: str
    name: str
    color: Color
    is_thing: bool


def search_stride(height: int, width: int) -> int:
    """Return every which row and column of a map of this size the search for places looks at."""
    return math.ceil(max(height, width) / _SEARCH_SIDE)


def strided(array: np.ndarray, stride: int) -> np.ndarray:
    """Return every `stride`-th row and column, from the middle of the first ones."""
    top, left = (min(stride // 2, n - 1) for n in array.shape)
    return array[top::stride, left::stride]


def label_regions(
    canvas: Image.Image, small: np.ndarray, stride: int, regions: Sequence[RegionLabel]
) -> list[LegendEntry]:
    """Write the labels of the regions that have room for them.

    Args:
        canvas: the picture, which is drawn on.
        small: (h, w) integers, the number of the region of each pixel, from 1, or 0; a map of
            1/stride of the picture's size.
        stride: pixels of the picture per pixel of `small`.
        regions: those that `small` numbers.

    Returns:
        The entries of a legend of the regions without a label, in their order. Names without a
        character have none.
    """
    style = LabelStyle.for_picture(canvas)
    least = {True: _LEAST_THING * style.height, False: _LEAST_STUFF * style.height}
    labelled = [
        (i, anchor)
        for i, anchor in _anchors(small, regions, stride)
        if anchor.area > least[regions[i].is_thing] * style.width(regions[i].text)
    ]
    is_thing = np.array([False, *(region.is_thing for region in regions)])

    def pixels(box: Box) -> np.ndarray:
        x0, y0, x1, y1 = (max(0, round(v / stride)) for v in box)
        return small[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]

    def other_things(number: int, box: Box) -> float:
        below = pixels(box)
        others = is_thing[below] & (below != labelled[number][0] + 1)
        return 0.5 * float(np.count_nonzero(others)) * stride**2

    def belongs(number: int, box: Box) -> bool:
        region = labelled[number][0]
        if not regions[region].is_thing:
            return float((pixels(box) == region + 1).mean()) >= _ON_REGION
        gap = max(_GAP * style.height, stride)
        x0, y0, x1, y1 = box
        return bool((pixels((x0 - gap, y0 - gap, x1 + gap, y1 + gap)) == region + 1).any())

    placed = draw_labels(
        canvas,
        [anchor for _, anchor in labelled],
        [regions[i].text for i, _ in labelled],
        [regions[i].color for i, _ in labelled],
        hides=other_things,
        allowed=belongs,
    )
    named = {labelled[number][0] for number in placed}
    return _legend([region for i, region in enumerate(regions) if i not in named])


def _legend(regions: Sequence[RegionLabel]) -> list[LegendEntry]:
    entries: dict[str, LegendEntry] = {}
    for region in regions:
        if not region.name:
            continue
        entry = entries.setdefault(region.name, LegendEntry(region.name, []))
        if region.is_thing:
            entry.count = (entry.count or 0) + 1
        if region.color not in entry.colors:
            entry.colors.append(region.color)
    return list(entries.values())


def _anchors(
    small: np.ndarray, regions: Sequence[RegionLabel], stride: int
) -> list[tuple[int, LabelAnchor]]:
    """Return where labels may go, each with its position in `regions`: things first, then stuff.

    Things and stuff are each sorted by area, the largest first. A region in several pieces has its
    label on the largest and, if it is stuff, also on others that are nearly as large.
    """
    found: list[tuple[int, LabelAnchor]] = []
    boxes = boxes_of(small, range(1, len(regions) + 1)).tolist()
    for i, ((left, top, right, bottom), region) in enumerate(zip(boxes, regions, strict=True)):
        if right == 0:
            continue
        pieces, count = connected_pieces(small[top:bottom, left:right] == i + 1)
        areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        order = np.argsort(-areas, kind="stable")
        limit = 1 if region.is_thing else 3
        for piece in order[:limit]:
            if areas[piece] < areas[order[0]] / 3:
                break
            anchor = _anchor(pieces == piece + 1, (left, top), stride, region.is_thing)
            found.append((i, anchor))
    found.sort(key=lambda item: (not regions[item[0]].is_thing, -item[1].area))
    return found


def _anchor(
    piece: np.ndarray, corner: tuple[int, int], stride: int, may_leave: bool
) -> LabelAnchor:
    """Find the points with the most room within a piece, a crop at 1/stride of the size.

    Args:
        piece: bool.
        corner: (x, y) of the crop.
        stride: pixels of the picture per pixel of the crop.
        may_leave: whether the label may stand beside the piece.
    """
    left, top = corner

    def point(y: float, x: float) -> Point:
        return (left + x) * stride, (top + y) * stride

    room = room_within(piece, _LABEL_ASPECT)
    points: list[Point] = []
    best = float(room.max())
    while len(points) < _NUM_POINTS:
        y, x = (int(v) for v in np.unravel_index(np.argmax(room), room.shape))
        reach = float(room[y, x])
        if reach <= best / 2 and points:  # a label would hardly fit there
            break
        points.append(point(y + 0.5, x + 0.5))
        dx, dy = math.ceil(reach), math.ceil(reach / _LABEL_ASPECT)
        room[max(0, y - dy) : y + dy + 1, max(0, x - dx) : x + dx + 1] = 0
    ys, xs = np.nonzero(piece)
    # The outermost pixels; of several, the middle one.
    ends_x = [float(np.median(xs[ys == y])) + 0.5 for y in (ys.min(), ys.max())]
    ends_y = [float(np.median(ys[xs == x])) + 0.5 for x in (xs.min(), xs.max())]
    tips = (
        point(ys.min(), ends_x[0]),
        point(ys.max() + 1, ends_x[1]),
        point(ends_y[0], xs.min()),
        point(ends_y[1], xs.max() + 1),
    )
    return LabelAnchor(float(piece.sum()) * stride**2, points, tips if may_leave else None)
