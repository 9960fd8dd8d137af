"""Run lengths, against pycocotools, and planes of bits, against the masks."""

import itertools

import numpy as np
import pycocotools.mask as mask_util
import pytest

from mask2former.structures import PackedMasks
from mask2former_runtime.bit_planes import add, empty, unpack
from mask2former_runtime.rle import encode, encode_parts


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


def test_parts_of_a_mask_are_encoded_as_the_whole_mask():
    """Parts that leave out empty rows and columns, and runs that go on from column to column."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 9, 2).tolist()
        mask = rng.random((height, width)) < rng.choice([0, 0.2, 0.5, 0.9, 1])
        top = int(rng.integers(0, height)) if rng.random() < 0.5 else 0
        mask[:top] = False
        cuts = [0, *sorted(rng.integers(0, width + 1, 2).tolist()), width]
        parts = [((top, a), mask[top:, a:b]) for a, b in itertools.pairwise(cuts)]
        kept = [part for part in parts if part[1].any()]
        assert encode_parts(kept, (height, width)) == encode(mask)
