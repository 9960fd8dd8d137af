"""Boxes, connected pieces and distances, against SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from mask2former_runtime.maps import boxes_of, connected_pieces, ids_to_rgb, room_within

SIZES = [(1, 1), (1, 9), (9, 1), (7, 5), (64, 90)]


def blobs(size: tuple[int, int], seed: int, smooth: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=size)
    return ndimage.gaussian_filter(noise, smooth, mode="wrap") if smooth else noise


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("smooth", [0, 2])
def test_boxes(size, dtype, smooth):
    values = (blobs(size, 0, smooth) > 0).cumsum().reshape(size) % 7 * 40
    values = values.astype(dtype)
    keys = [80, 0, 40, 7, 240, 255]
    found = ndimage.find_objects(values.astype(int) + 1, max_label=256)
    for key, box in zip(keys, boxes_of(values, keys), strict=True):
        slices = found[key]
        if slices is None:
            assert box.tolist() == [0, 0, 0, 0]
        else:
            rows, columns = slices
            assert box.tolist() == [columns.start, rows.start, columns.stop, rows.stop]
    assert boxes_of(values, []).shape == (0, 4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("smooth", [0, 1, 4])
@pytest.mark.parametrize("level", [-0.5, 0, 0.5])
def test_pieces(size, smooth, level):
    field = blobs(size, 1, smooth)
    mask = field > level * field.std()
    pieces, count = connected_pieces(mask)
    expected, number = ndimage.label(mask)
    assert count == number
    np.testing.assert_array_equal(pieces, expected)


def test_pieces_that_meet_late():
    """Combs and spirals, whose parts join only in the last rows."""
    spiral = np.zeros((41, 41), bool)
    for ring in range(0, 20, 2):
        spiral[ring : 41 - ring, [ring, 40 - ring]] = True
        spiral[[ring, 40 - ring], ring : 41 - ring] = True
        spiral[ring + 1, ring] = False
        spiral[ring + 1, ring + 1 : ring + 3] = True
    comb = np.zeros((30, 41), bool)
    comb[:, ::2], comb[-1] = True, True
    for mask in (spiral, comb, spiral.T, comb[::-1], np.zeros((3, 3), bool), np.ones((3, 3), bool)):
        pieces, count = connected_pieces(mask)
        expected, number = ndimage.label(mask)
        assert count == number
        np.testing.assert_array_equal(pieces, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("aspect", [1, 4])
def test_room(size, aspect):
    masks = [blobs(size, 2, smooth) > -0.01 for smooth in (0, 3)]
    for mask in (*masks, np.ones(size, bool), np.zeros(size, bool)):
        expected = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=(aspect, 1))
        np.testing.assert_array_equal(room_within(mask, aspect), expected[1:-1, 1:-1])


def test_ids_in_colours():
    ids = np.array([[0, 255, 256], [65536, 2**24 - 1, 70000]])
    red, green, blue = np.moveaxis(ids_to_rgb(ids).astype(int), -1, 0)
    np.testing.assert_array_equal(red + 256 * green + 65536 * blue, ids)
