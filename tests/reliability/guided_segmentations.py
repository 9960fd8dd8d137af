"""Fuzz run lengths and polygons guided by coverage: ``python guided_segmentations.py -runs=10000``.

It needs the package `atheris` and takes the options of libFuzzer. See test_fuzz_segmentations.py.
"""

import sys

import atheris

with atheris.instrument_imports(include=["mask2former.data.segmentation"]):
    from mask2former.data import segmentation as code

import numpy as np
import pycocotools.mask as mask_util

COORDINATES = [0.0, -0.5, 1e3, 4e8, -1e19, 1e300, float("nan"), float("inf")]
COUNTS = [0, 1, -1, 2**31, 2**32, 2**62, 2**63 - 1, 2**64, 10**30]


def segmentation_from(data: atheris.FuzzedDataProvider, height: int, width: int) -> object:
    kind = data.ConsumeIntInRange(0, 3)
    if kind == 0:
        counts: object = data.ConsumeBytes(200)
    elif kind == 1:
        counts = data.ConsumeUnicodeNoSurrogates(200)
    elif kind == 2:
        counts = []
        while data.remaining_bytes():
            odd = data.ConsumeIntInRange(0, 7) == 0
            counts.append(data.PickValueInList(COUNTS) if odd else data.ConsumeIntInRange(0, 80))
        if data.ConsumeBool():  # else nearly nothing would add up
            counts.append(height * width - sum(counts))
    else:
        polygons: list[list[float]] = [[]]
        while data.remaining_bytes():
            choice = data.ConsumeIntInRange(0, 15)
            if choice == 0:
                polygons.append([])
            elif choice == 1:
                polygons[-1].append(data.PickValueInList(COORDINATES))
            else:
                polygons[-1].append(data.ConsumeIntInRange(-400, 800) / 8)
        return polygons
    return {"size": [height, width], "counts": counts}


def check(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    size = data.ConsumeIntInRange(1, 60), data.ConsumeIntInRange(1, 60)
    segmentation = segmentation_from(data, *size)
    try:
        code.check_segmentation(segmentation, size)
        mask = mask_util.decode(code.to_rle(segmentation, size))
    except ValueError:
        return
    assert mask.shape == size and mask.max() <= 1
    if isinstance(segmentation, dict):
        np.testing.assert_array_equal(code.decode_rle(segmentation, *size), mask)
    else:
        polygons = [code.parse_polygon(polygon, *size) for polygon in segmentation]
        drawn = code.rasterize_polygons(polygons, *size)
        assert drawn.sum() == mask.sum()


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
