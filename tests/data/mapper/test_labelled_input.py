# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
from fractions import Fraction

import numpy as np
import pytest
from detectron2.data import transforms as T
from label_files import patches

from mask2former.data.mapper.labelled_input import LabelledInput, transform_labels


def sources(old, new):
    """For each new pixel the old ones that hold its centre: two if it is on their border."""
    centers = [(Fraction(2 * i + 1, 2)) * int(old) / int(new) for i in range(new)]
    return [{int(c)} | ({int(c) - 1} if c.denominator == 1 else set()) for c in centers]


def some_transforms(rng, height, width):
    """Resize, flip, crop and pad; and, independently, the source of each row and column."""
    new_height, new_width = rng.integers(5, 90, 2)
    top, left = rng.integers(0, new_height), rng.integers(0, new_width)
    crop_height, crop_width = new_height - top, new_width - left
    rows, columns = sources(height, new_height), sources(width, new_width)[::-1]
    transforms = T.TransformList(
        [
            T.ResizeTransform(height, width, int(new_height), int(new_width)),
            T.HFlipTransform(int(new_width)),
            T.CropTransform(int(left), int(top), int(crop_width), int(crop_height)),
            T.PadTransform(0, 0, 3, 2, seg_pad_value=255),
        ]
    )
    return transforms, rows[top:], columns[left:]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int16, np.uint32])
def test_labels_of_all_types_move_to_the_nearest_pixel(dtype, seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(5, 60, 2))
    info = np.iinfo(dtype)
    labels = rng.integers(info.min, info.max, (height, width), dtype=dtype, endpoint=True)
    transforms, rows, columns = some_transforms(rng, height, width)
    moved = transform_labels(labels, transforms)
    assert moved.dtype == dtype
    assert moved.shape == (len(rows) + 2, len(columns) + 3)
    padding = np.full(dtype().itemsize, 255, dtype=np.uint8).view(dtype)
    assert (moved[-2:] == padding).all() and (moved[:, -3:] == padding).all()
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert moved[i, j] in [labels[y, x] for y in row for x in column]


def test_labels_of_segments_are_computed_when_an_augmentation_asks():
    rng = np.random.default_rng(0)
    segments = patches(rng, 40, 50, np.arange(6, dtype=np.uint8))
    classes = rng.integers(0, 100, 256)
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    derived = LabelledInput(image, segments=segments, segment_labels=classes)
    given = LabelledInput(image, segments=segments, labels=classes[segments].astype(np.uint8))
    crop = T.AugmentationList(
        [
            T.ResizeShortestEdge((30, 60)),
            T.RandomCrop_CategoryAreaConstraint("absolute", (20, 20), 0.5, 255),
            T.RandomFlip(),
        ]
    )
    for labelled in (derived, given):
        np.random.seed(3)
        crop(labelled)
    assert (derived.image == given.image).all()
    assert (derived.sem_seg == given.sem_seg).all()
    assert derived.labels is None and (given.labels == classes[given.segments]).all()
    assert LabelledInput(image).sem_seg is None
    assert LabelledInput(image, segments=segments).sem_seg is None
