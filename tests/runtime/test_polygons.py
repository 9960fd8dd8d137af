"""Polygons of masks against matplotlib's and pycocotools' ways of filling them."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from matplotlib.path import Path
from scipy import ndimage

from mask2former_runtime.polygons import mask_to_polygons, polygon_area


def filled(polygons, shape) -> np.ndarray:
    """Fill by the even-odd rule: a pixel is in if its centre is in an odd number of polygons."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    centres = np.stack([x.ravel(), y.ravel()], axis=1) + 0.5
    inside = np.zeros(len(centres), bool)
    for polygon in polygons:
        inside ^= Path(np.concatenate([polygon, polygon[:1]])).contains_points(centres)
    return inside.reshape(shape)


def blobs(seed: int, shape=(60, 90)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 3)
    return noise > np.median(noise)


@pytest.mark.parametrize("seed", range(60))
def test_polygons_are_exactly_the_mask(seed):
    """With holes, islands in holes, pixels that touch at corners, and masks at the edges."""
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 14, 2)) < rng.random()
    polygons = mask_to_polygons(mask)
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    assert sum(map(polygon_area, polygons)) == mask.sum()
    for polygon in polygons:
        assert polygon.dtype == np.float32 and (polygon == polygon.round()).all()
        steps = np.roll(polygon, -1, axis=0) - polygon
        assert ((steps == 0).sum(axis=1) == 1).all()  # along rows and columns
        turns = np.abs(np.roll(steps, -1, axis=0)).astype(bool) != np.abs(steps).astype(bool)
        assert turns.all()  # no point within a straight line
    # Parts and holes, by the connected pixels of mask and background
    parts = ndimage.label(mask)[1]
    holes = ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1] - 1
    assert sum(polygon_area(polygon) > 0 for polygon in polygons) == parts
    assert sum(polygon_area(polygon) < 0 for polygon in polygons) == holes


@pytest.mark.parametrize("seed", range(5))
def test_coco_fills_parts_without_holes_exactly(seed):
    mask = ndimage.binary_fill_holes(blobs(seed))
    rows = [p.ravel().astype(float).tolist() for p in mask_to_polygons(mask)]
    rles = mask_util.frPyObjects(rows, *mask.shape)
    np.testing.assert_array_equal(mask_util.decode(mask_util.merge(rles)), mask)


@pytest.mark.parametrize("tolerance", [0.8, 2.0])
def test_simplified_polygons_stay_near(tolerance):
    mask = np.pad(blobs(1), 1)
    exact, simple = mask_to_polygons(mask), mask_to_polygons(mask, tolerance)
    assert sum(map(len, simple)) < 0.6 * sum(map(len, exact))
    border = ndimage.distance_transform_edt(mask) + ndimage.distance_transform_edt(~mask)
    wrong = filled(simple, mask.shape) != mask
    assert border[wrong].max(initial=0) <= tolerance + 1


def test_nothing_and_everything():
    assert mask_to_polygons(np.zeros((3, 4), bool)) == []
    assert mask_to_polygons(np.zeros((0, 4), bool)) == []
    (square,) = mask_to_polygons(np.ones((3, 4), bool))
    assert sorted(square.tolist()) == [[0, 0], [0, 3], [4, 0], [4, 3]]
    assert polygon_area(square) == 12 and polygon_area(square[::-1]) == -12
