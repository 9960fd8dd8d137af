import numpy as np
import pycocotools.mask as mask_util
import pytest

from mask2former.data.segmentation import rasterize_polygons


def some_polygons(rng):
    """Draw one to three outlines around a point in the image or beside it, some larger than it."""
    center, size = rng.uniform(-30, 90, 2), rng.choice([1, 5, 20, 80])
    polygons = []
    for _ in range(rng.integers(1, 4)):
        points = center + rng.normal(0, size, (rng.integers(3, 9), 2))
        # With few decimals, some corners are on COCO's grid, where rounding matters.
        polygons.append(points.round(rng.integers(0, 4)) if rng.random() < 0.7 else points)
    return polygons


@pytest.mark.parametrize("seed", range(4))
def test_the_part_that_polygons_reach_holds_the_whole_mask_of_coco(seed):
    rng = np.random.default_rng(seed)
    areas = []
    for _ in range(500):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        polygons = some_polygons(rng)
        flat = [polygon.reshape(-1).tolist() for polygon in polygons]
        whole = mask_util.decode(mask_util.merge(mask_util.frPyObjects(flat, height, width)))
        corner = rasterize_polygons(polygons, height, width)
        assert corner.dtype == bool
        h, w = corner.shape
        assert (corner == whole[:h, :w]).all() and corner.sum() == whole.sum()
        areas.append((corner.sum(), corner.size, whole.size))
    covered, corners, wholes = np.array(areas).T
    assert (covered > 0).sum() > 100 and (covered == 0).sum() > 100
    # An image without polygons takes no memory.
    assert corners.sum() < 0.75 * wholes.sum()
    assert rasterize_polygons([], 5, 7).size == 0
