# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
import colorsys

import numpy as np
import pytest
from detectron2.data import transforms as T
from label_files import patches
from support import QUICKSTART

from mask2former import load_config
from mask2former.data.mapper.appearance import ColorTransform, SSDColorJitter
from mask2former.data.mapper.augmentations import (
    PadToMultiple,
    ResizeScale,
    ResizeShortestEdge,
    resize_crop_color,
)

COLORS = np.concatenate(
    [
        np.stack(np.meshgrid([0, 1, 128, 254, 255], [0, 7, 255], [0, 127, 255]), -1).reshape(-1, 3),
        np.random.default_rng(0).integers(0, 256, (955, 3)),
    ]
).astype(np.uint8)
CHANGES = [
    {},
    {"brightness": 20.3},
    {"brightness": -32.0, "contrast": 1.5},
    {"contrast": 0.6, "contrast_first": False},
    {"saturation": 1.5},
    {"saturation": 0.5, "hue": -36},
    {"hue": 14},
    {"hue": 200},
    {"brightness": 9, "contrast": 1.3, "saturation": 1.4, "hue": 30, "contrast_first": True},
    {"brightness": 9, "contrast": 1.3, "saturation": 1.4, "hue": 30, "contrast_first": False},
]


def changed(
    rgb, brightness=0.0, contrast=1.0, saturation=1.0, hue=0.0, contrast_first=True, **others
):
    """One colour, step by step with the standard library; not rounded after the last step."""

    def rounded(values):
        return [round(min(255, max(0, v))) for v in values]

    rgb = rounded(v + brightness for v in map(float, rgb))
    if contrast_first:
        rgb = rounded(v * contrast for v in rgb)
    h, s, v = colorsys.rgb_to_hsv(*(v / 255 for v in rgb))
    s = min(1.0, s * saturation)
    rgb = [255 * v for v in colorsys.hsv_to_rgb((h + hue / 360) % 1, s, v)]
    return rgb if contrast_first else [min(255, v * contrast) for v in rounded(rgb)]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_colors_change_as_the_standard_library_computes(changes):
    image = COLORS.reshape(100, 10, 3)  # more rows than are computed at a time
    expected = np.array([changed(rgb, **changes) for rgb in COLORS]).reshape(image.shape)
    before = image.copy()
    result = ColorTransform("RGB", **changes).apply_image(image)
    assert result.dtype == np.uint8 and (image == before).all()
    difference = abs(result - expected)
    # A half may be rounded either way, and then be multiplied by the contrast.
    assert np.quantile(difference, 0.95) <= 0.501
    assert difference.max() <= (0.501 if changes.get("contrast_first", True) else 2)
    if not changes:
        assert (result == image).all()
    swapped = ColorTransform("BGR", **changes).apply_image(image[..., ::-1])
    assert (swapped[..., ::-1] == result).all()


def test_color_changes_move_nothing():
    transform = ColorTransform("RGB", hue=20, contrast=0.5)
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (transform.apply_segmentation(labels) == labels).all()
    assert (transform.apply_coords(np.eye(2)) == np.eye(2)).all()


def test_colors_are_drawn_as_in_ssd():
    jitter = SSDColorJitter("RGB")
    image = COLORS[:12].reshape(3, 4, 3)
    np.random.seed(0)
    drawn = [jitter.get_transform(image) for _ in range(3000)]
    for name, neutral, low, high in (
        ("brightness", 0, -32, 32),
        ("contrast", 1, 0.5, 1.5),
        ("saturation", 1, 0.5, 1.5),
        ("hue", 0, -36, 36),
    ):
        values = np.array([getattr(transform, name) for transform in drawn])
        assert (values >= low).all() and (values <= high).all()
        values = values[values != neutral]
        assert abs(len(values) / len(drawn) - 0.5) < 0.04
        margin = 0.01 * (high - low)
        assert values.min() < low + margin and values.max() > high - margin
        assert abs(values.mean() - (low + high) / 2) < 2 * margin
    assert abs(np.mean([transform.contrast_first for transform in drawn]) - 0.5) < 0.04
    hues = {transform.hue for transform in drawn}
    assert hues == set(range(-36, 37, 2))
    both = np.mean([t.hue != 0 and t.contrast != 1 and t.brightness != 0 for t in drawn])
    assert abs(both - 1 / 8) < 0.03, "independent of each other"
    np.random.seed(0)
    assert vars(jitter.get_transform(image * 2)) == vars(drawn[0])


@pytest.mark.parametrize("size", [(1, 1), (32, 64), (33, 63), (31, 65)])
def test_padding_to_a_multiple(size):
    image = np.zeros((*size, 3), dtype=np.uint8)
    transform = PadToMultiple(32).get_transform(image)
    padded = transform.apply_image(image).copy()
    labels = transform.apply_segmentation(image[..., 0]).copy()
    height, width = ((side + 31) // 32 * 32 for side in size)
    assert padded.shape == (height, width, 3) and labels.shape == (height, width)
    assert not padded[: size[0], : size[1]].any() and not labels[: size[0], : size[1]].any()
    padded[: size[0], : size[1]] = 128
    labels[: size[0], : size[1]] = 255
    assert (padded == 128).all() and (labels == 255).all()


@pytest.mark.parametrize("size", [(2000, 3), (3, 2000), (1, 1)])
def test_thin_images_do_not_vanish(size):
    image = np.full((*size, 3), 9, dtype=np.uint8)
    for resize, plain in (
        (ResizeScale(0.1, 2.0, 100, 100), T.ResizeScale(0.1, 2.0, 100, 100)),
        (ResizeShortestEdge((20, 40), 60), T.ResizeShortestEdge((20, 40), 60)),
    ):
        for seed in range(10):
            np.random.seed(seed)
            ours = resize.get_transform(image)
            np.random.seed(seed)
            theirs = plain.get_transform(image)
            assert (ours.new_h, ours.new_w) == (max(1, theirs.new_h), max(1, theirs.new_w))
            assert (ours.apply_image(image) == 9).all()
            assert ours.apply_segmentation(image[..., 0]).shape == (ours.new_h, ours.new_w)


def make_cfg(**keys):
    keys = {key.replace("__", "."): value for key, value in keys.items()}
    keys = {"MIN_SIZE_TRAIN": (80, 100), "CROP.ENABLED": True, "CROP.TYPE": "absolute", **keys}
    keys = {"CROP.SIZE": [40, 50], "CROP.SINGLE_CATEGORY_MAX_AREA": 0.6, **keys}
    pairs = [item for key, value in keys.items() for item in (f"INPUT.{key}", value)]
    return load_config(str(QUICKSTART), pairs)


def shares(labels, ignored):
    """Share of the labelled pixels that each class covers, pixel by pixel."""
    counts: dict[int, int] = {}
    for label in labels.reshape(-1).tolist():
        if label != ignored:
            counts[label] = counts.get(label, 0) + 1
    return [count / sum(counts.values()) for count in counts.values()]


def crops(cfg, labels, count=60):
    """The labels that crops with different seeds leave."""
    image = np.zeros((*labels.shape, 3), dtype=np.uint8)
    augmentations = T.AugmentationList(resize_crop_color(cfg, 255))
    for seed in range(count):
        np.random.seed(seed)
        augmented = T.AugInput(image, sem_seg=labels)
        augmentations(augmented)
        yield augmented.sem_seg


def test_no_class_covers_too_much_of_a_crop():
    rng = np.random.default_rng(0)
    labels = np.full((100, 130), 7, dtype=np.uint8)
    labels[:, 60:] = patches(rng, 100, 70, np.arange(5, dtype=np.uint8))
    labels[30:, :25] = 255  # a corner with little but pixels that do not count
    free = [max(shares(crop, 255)) for crop in crops(make_cfg(), labels, 60)]
    assert max(free) < 0.6
    anywhere = make_cfg(CROP__SINGLE_CATEGORY_MAX_AREA=1.0)
    assert max(max(shares(crop, 255)) for crop in crops(anywhere, labels)) > 0.9
    sizes = {crop.shape for crop in crops(anywhere, labels, 5)}
    assert sizes == {(40, 50)}


def test_an_image_of_one_class_is_cropped_anyway():
    labels = np.full((100, 130), 7, dtype=np.uint8)
    assert all((crop == 7).all() for crop in crops(make_cfg(), labels, 5))


def test_order_and_keys():
    def kinds(cfg, ignore_label=255):
        return [type(a).__name__ for a in resize_crop_color(cfg, ignore_label)]

    everything = make_cfg(COLOR_AUG_SSD=True, SIZE_DIVISIBILITY=64)
    constrained = "RandomCrop_CategoryAreaConstraint"
    order = ["ResizeShortestEdge", constrained, "SSDColorJitter", "RandomFlip", "PadToMultiple"]
    assert kinds(everything) == order
    # Without labels there is nothing that the crop could follow.
    assert kinds(everything, None) == [k if k != constrained else "RandomCrop" for k in order]
    plain = make_cfg(CROP__ENABLED=False, RANDOM_FLIP="none")
    assert kinds(plain) == ["ResizeShortestEdge"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MIN_SIZE_TRAIN_SAMPLING", "all", r"MIN_SIZE_TRAIN_SAMPLING is 'all'.*'choice'"),
        ("CROP__TYPE", "square", r"CROP\.TYPE is 'square'.*'absolute'"),
        ("FORMAT", "L", r"FORMAT is 'L'.*'RGB' and 'BGR'"),
        ("RANDOM_FLIP", "both", r"RANDOM_FLIP is 'both'"),
    ],
)
def test_unknown_values_are_named(key, value, message):
    cfg = make_cfg(**{"COLOR_AUG_SSD": True, key: value})
    with pytest.raises(ValueError, match=message):
        resize_crop_color(cfg, 255)
