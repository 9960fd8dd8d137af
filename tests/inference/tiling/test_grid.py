"""Where tiles lie."""

import itertools

import numpy as np
import pytest

from mask2former.inference.tiling.grid import Grid, Region, Tiling


@pytest.mark.parametrize("overlap", [0, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 1000])
def test_spans_cover_a_side_and_overlap_enough(length, overlap):
    spans = Tiling(64, overlap).spans(length)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(end - start == min(64, length) for start, end in spans)
    for (start, end), (following, _) in itertools.pairwise(spans):
        assert start < following and end - following >= overlap * 64 - 1e-9
    if length > 64:  # no fewer would do
        assert 64 + (len(spans) - 2) * int(64 * (1 - overlap)) < length


def test_zones_divide_the_image_by_the_nearest_middle():
    grid = Grid((150, 230), Tiling(64, 0.3))
    owner = np.full(grid.image_size, -1)
    for i in range(len(grid)):
        assert grid.tile(i).contains(grid.zone(i))
        rows, columns = grid.zone(i).slices(Region(0, 0, 0, 0))
        assert (owner[rows, columns] == -1).all()
        owner[rows, columns] = i
    y, x = np.mgrid[:150, :230] + 0.5
    tiles = np.array([grid.tile(i) for i in range(len(grid))])
    middles = (tiles[:, :2] + tiles[:, 2:]) / 2
    distances = [np.maximum(abs(y - v), 0) + abs(x - u) for v, u in middles]
    nearest = np.take_along_axis(np.stack(distances), owner[None], 0)[0]
    assert (nearest <= np.min(distances, axis=0) + 1).all()  # within rounding of the cuts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "tile 0: the side of a tile is at least 32 pixels"),
        ((-5,), "tile -5"),
        ((31,), "tile 31"),
        ((64, -0.1), "overlap -0.1: it is a share of a tile, from 0 to 0.9"),
        ((64, 0.95), "overlap 0.95"),
        ((64, float("nan")), "overlap nan"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tiling(*arguments)
