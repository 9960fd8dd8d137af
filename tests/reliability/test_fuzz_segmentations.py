"""Polygons and run lengths from files never corrupt the process: masks or a ValueError, soon."""

import os
import random
import subprocess
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
from fuzzing import cases, mutated_bytes, mutated_json, run_cases
from support import REPOSITORY, SOURCES

from mask2former.data.segmentation import (
    check_segmentation,
    checked_run_lengths,
    decode_rle,
    parse_polygon,
    rasterize_polygons,
    to_rle,
)

HEIGHT, WIDTH = 30, 40


def character(number, last=True):
    return bytes([48 + (number if last else number | 32)])


def wrapping_counts():
    """Compressed counts of which the running sum of every second one passes 2**63."""
    huge = character(31, last=False) * 10 + character(15)
    return huge * 40


@pytest.mark.parametrize(
    "counts",
    [
        wrapping_counts(),
        b"\x5f" * 11 + b"?" + wrapping_counts(),
        [2**62, 2**62, 2**62, 2**62, HEIGHT * WIDTH],
        [2**63 - 1, 2**63 - 1, HEIGHT * WIDTH + 2],
        [2**64 - 1, HEIGHT * WIDTH + 1],
        [2**32, HEIGHT * WIDTH],
        [10**30],
        [1.0, HEIGHT * WIDTH - 1],
        [[HEIGHT * WIDTH]],
        [[1], 2],
        ["1"],
        [],
        "",
        "\u0130",
        None,
        {},
        5,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_counts_that_do_not_fit_are_refused(counts):
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}
    for read in (
        lambda: checked_run_lengths(rle, HEIGHT, WIDTH),
        lambda: decode_rle(rle, HEIGHT, WIDTH),
        lambda: to_rle(rle, (HEIGHT, WIDTH)),
        lambda: check_segmentation(rle, (HEIGHT, WIDTH)),
    ):
        with pytest.raises(ValueError):
            read()


@pytest.mark.parametrize(
    "size",
    [[30.0, 40.0], [True, 40], [30], [[30, 40]], "30", None, [10**30, 40], [-30, -40], [40, 30]],
    ids=repr,
)
def test_sizes_are_those_of_the_image(size):
    with pytest.raises(ValueError, match="size"):
        decode_rle({"size": size, "counts": [HEIGHT * WIDTH]}, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "sides", [(2**31, 2**31), (10**30, 1), (0, 5), (-1, -1), (1.0, 2), (True, 1)]
)
def test_masks_of_impossible_images_are_refused(sides):
    with pytest.raises(ValueError, match="image"):
        to_rle({"size": list(sides), "counts": [1]}, sides)
    with pytest.raises(ValueError, match="image"):
        to_rle([[0, 0, 1, 0, 1, 1]], sides)


@pytest.mark.parametrize("far", [1e8, 4e8, 4.3e8, 1e10, 1e19, 1e300, -4e8, -1e300])
@pytest.mark.parametrize("place", range(6))
def test_polygons_far_outside_are_refused(far, place):
    polygon = [1.0, 1.0, 20.0, 1.0, 20.0, 15.0]
    polygon[place] = far
    with pytest.raises(ValueError, match="far outside the 40x30 image"):
        parse_polygon(polygon, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="far outside"):
        to_rle([polygon], (HEIGHT, WIDTH))


@pytest.mark.parametrize("wrong", ["1", None, [1], {}, 10**30, 10**400])
def test_coordinates_are_numbers(wrong):
    polygon = [1.0, 1.0, 20.0, wrong, 20.0, 15.0]
    with pytest.raises(ValueError, match="a polygon is not"):
        parse_polygon(polygon, HEIGHT, WIDTH)


def test_an_endless_outline_is_refused():
    zigzag = [0.0, 0.0, 9000.0, 9000.0] * 2000
    with pytest.raises(ValueError, match="outline of"):
        parse_polygon(zigzag, HEIGHT, WIDTH)


def test_enlarged_polygons_are_refused_before_they_are_drawn():
    points = np.array([[0.0, 0], [1, 0], [1, 1]])
    for factor in (1e9, 1e300, 1e8):
        with pytest.raises(ValueError, match="a polygon"):
            rasterize_polygons([points * factor], HEIGHT, WIDTH)


@pytest.mark.parametrize("seed", range(10))
def test_polygons_within_reach_have_the_mask_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    for reach in (10, 100, 5000):
        polygon = rng.uniform(-reach, reach, 2 * rng.integers(3, 9)).round(1).tolist()
        expected = mask_util.decode(mask_util.frPyObjects([polygon], HEIGHT, WIDTH)[0])
        found = mask_util.decode(to_rle([polygon], (HEIGHT, WIDTH)))
        np.testing.assert_array_equal(found, expected)
        corner = rasterize_polygons([parse_polygon(polygon, HEIGHT, WIDTH)], HEIGHT, WIDTH)
        assert corner.sum() == expected.sum()


def sound_segmentations():
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[3:20, 5:30] = 1
    mask[7:9, 11:13] = 0
    counts = mask_util.encode(mask)["counts"].decode()
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel()])))
    return [
        [[5.0, 3, 30, 3, 30, 20, 5, 20], [1, 1, 2.5, 1, 2, 2, 1, 9]],
        {"size": [HEIGHT, WIDTH], "counts": counts},
        {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *changes, mask.size]).tolist()},
    ]


def check_one(seed):
    rng = random.Random(seed)
    segmentation = mutated_json(rng.choice(sound_segmentations()), rng)
    if isinstance(segmentation, dict) and rng.random() < 0.3:
        segmentation["counts"] = mutated_bytes(sound_segmentations()[1]["counts"].encode(), rng)
    try:
        check_segmentation(segmentation, (HEIGHT, WIDTH))
        mask = mask_util.decode(to_rle(segmentation, (HEIGHT, WIDTH)))
    except ValueError:
        return
    assert mask.shape == (HEIGHT, WIDTH) and mask.max() <= 1
    if isinstance(segmentation, dict):
        np.testing.assert_array_equal(decode_rle(segmentation, HEIGHT, WIDTH), mask)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_segmentations_guided_by_coverage(tmp_path):
    pytest.importorskip("atheris")
    limits = [f"-runs={cases(10_000)}", "-max_len=300", "-len_control=0", "-seed=1", "-timeout=10"]
    fuzzer = REPOSITORY / "tests/reliability/guided_segmentations.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCES, *sys.path])}
    result = subprocess.run(
        [sys.executable, str(fuzzer), *limits, str(tmp_path)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-5000:]
    assert len([*tmp_path.iterdir()]) > 20  # inputs that reach something new
    print(result.stderr.splitlines()[-1])


def test_damaged_segmentations_are_masks_or_errors():
    run_cases(check_one, cases(1000))
