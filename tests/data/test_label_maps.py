# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
from fractions import Fraction

import numpy as np
import pytest
from detectron2.data import transforms as T
from label_files import id_colors, patches, raw_png, save
from PIL import Image

from mask2former.data import DatasetError
from mask2former.data.label_maps import (
    LabelledInput,
    read_label_map,
    read_panoptic_png,
    transform_labels,
)


def packed(values, bits):
    """Rows of numbers as PNG packs them, first in the high bits."""
    rows = []
    for row in values:
        text = "".join(format(value, f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))
    return rows


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_of_few_bits_is_read_as_stored(tmp_path, bits, palette):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (5, 11))
    # Colours that are no indices: 255, 254, ...
    colors = bytes(range(255, -1, -1)) * 3 if palette else None
    content = raw_png(
        packed(values, bits), bits=bits, width=11, palette=colors and colors[: 3 << bits]
    )
    (tmp_path / "labels.png").write_bytes(content)
    labels = read_label_map(tmp_path / "labels.png")
    assert labels.dtype == np.uint8 and (labels == values).all()


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", "u2"), ("tif", "u2"), ("tif", ">u2"), ("tif", "i4"), ("tif", "u1"), ("bmp", "u1")],
)
def test_other_files_of_one_channel(tmp_path, suffix, dtype):
    largest = 255 if dtype == "u1" else 65535
    values = np.random.default_rng(0).integers(0, largest + 1, (7, 9))
    values[0, :2] = 0, largest
    path = save(tmp_path / f"labels.{suffix}", values.astype(dtype))
    labels = read_label_map(path)
    assert labels.dtype.isnative and (labels == values).all()


def test_panoptic_ids_of_every_size(tmp_path):
    ids = np.random.default_rng(0).integers(0, 1 << 24, (40, 30))
    ids[0] = 2 ** np.arange(30).clip(0, 23)
    ids[1, :3] = 0, 255, (1 << 24) - 1
    path = save(tmp_path / "segments.png", id_colors(ids))
    assert (read_panoptic_png(path) == ids).all()
    # Programs that make files smaller store the same picture in other ways.
    opaque = np.dstack([id_colors(ids), np.full((40, 30, 1), 255, dtype=np.uint8)])
    assert (read_panoptic_png(save(tmp_path / "alpha.png", opaque)) == ids).all()
    few = ids[:8, :8]
    image = Image.fromarray(id_colors(few)).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "palette.png")
    assert (read_panoptic_png(tmp_path / "palette.png") == few).all()


def test_files_that_are_no_label_maps_are_named(tmp_path):
    color = save(tmp_path / "color.png", np.zeros((4, 4, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"color\.png: its pixels are RGB.*one channel"):
        read_label_map(color)
    floats = save(tmp_path / "floats.tif", np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(DatasetError, match=r"floats\.tif: its pixels are F"):
        read_label_map(floats)
    deep = save(tmp_path / "deep.png", np.zeros((4, 4), dtype=np.uint16))
    with pytest.raises(DatasetError, match=r"deep\.png: its pixels are I;16.*RGB of 8 bit"):
        read_panoptic_png(deep)
    save(tmp_path / "ok.png", np.eye(90, dtype=np.uint8))
    whole = (tmp_path / "ok.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    for read in (read_label_map, read_panoptic_png):
        with pytest.raises(DatasetError, match=r"cut\.png: damaged"):
            read(tmp_path / "cut.png")
        with pytest.raises(DatasetError, match=r"text\.png: not an image"):
            read(tmp_path / "text.png")
        with pytest.raises(DatasetError, match=r"gone\.png: no such file"):
            read(tmp_path / "gone.png")


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
