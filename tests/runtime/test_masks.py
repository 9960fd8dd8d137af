"""Run lengths, against pycocotools, and planes of bits, against the masks."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from mask2former.structures import PackedMasks
from mask2former_runtime.bit_planes import add, empty, unpack
from mask2former_runtime.rle import encode


def masks(size: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    height, width = size
    block = np.zeros(size, bool)
    block[height // 3 : height // 2 + 1, width // 4 :] = True
    corner = np.zeros(size, bool)
    corner[-1, -1] = True
    noise = [rng.random(size) < share for share in (0.02, 0.5, 0.98)]
    return [np.zeros(size, bool), np.ones(size, bool), block, ~block, corner, ~corner, *noise]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 8), (300, 417)])
def test_run_lengths(size):
    for mask in masks(size):
        expected = mask_util.encode(np.asfortranarray(mask))
        counts, area = encode(mask)
        assert counts == expected["counts"].decode("ascii")
        assert area == mask_util.area(expected) == mask.sum()


def test_long_runs_take_many_characters():
    mask = np.zeros((1100, 1100), bool)
    mask[0, 0] = mask[500, 1000] = mask[-1, -1] = True
    expected = mask_util.encode(np.asfortranarray(mask))
    assert encode(mask)[0] == expected["counts"].decode("ascii")


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 17])
def test_planes_are_those_of_packed_masks(count):
    all_masks = (masks((5, 8)) * 2)[:count]
    planes = empty(count, (5, 8))
    for n, mask in enumerate(all_masks):
        add(planes, n, mask[:2])
        add(planes, n, mask[2:], (2, 0))
    expected = PackedMasks.from_masks(all_masks, (5, 8))
    np.testing.assert_array_equal(planes, expected.planes.numpy())
    for n, mask in enumerate(all_masks):
        np.testing.assert_array_equal(unpack(planes, n), mask)
