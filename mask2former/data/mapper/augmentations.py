"""Training augmentations of the published recipes, and the steps that Detectron2 does not have.

Shapes:
    H, W: height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from .labelled_input import PADDING_BYTE

# Value of image pixels that padding adds.
IMAGE_PADDING = 128
# Rows whose colours are computed at a time, so that intermediate values stay in the CPU's cache.
_BLOCK = 64


def large_scale_jitter(cfg: CfgNode, ignore_label: int | None = None) -> list[T.Augmentation]:
    """Build flip, random scale and fixed crop: the LSJ of the paper's COCO recipe.

    The image is fitted into a square whose side is a random factor from ``MIN_SCALE`` to
    ``MAX_SCALE`` times ``IMAGE_SIZE`` pixels. Then a random square of ``IMAGE_SIZE`` pixels is
    cropped from it; a smaller image is padded to that size with the value 128.
    """
    size = cfg.INPUT.IMAGE_SIZE
    return [
        *_flip(cfg),
        ResizeScale(cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, size, size),
        T.FixedSizeCrop((size, size), pad_value=IMAGE_PADDING, seg_pad_value=PADDING_BYTE),
    ]


def resize_crop_color(cfg: CfgNode, ignore_label: int | None = None) -> list[T.Augmentation]:
    """Build the augmentations of the mask_former_* mappers: resize, crop, colours, flip, pad.

    The shorter side becomes one of ``MIN_SIZE_TRAIN``. ``CROP.ENABLED`` turns the crop on; with
    ``CROP.SINGLE_CATEGORY_MAX_AREA`` below 1 it is drawn again, up to 10 times, while one class
    covers more than that share of its labelled pixels. ``COLOR_AUG_SSD`` turns on the change of
    colours. Sides are padded to multiples of ``SIZE_DIVISIBILITY`` if that is positive.

    Args:
        cfg: the config.
        ignore_label: the label of pixels without a class; None if there are no labels for the crop
            to follow.

    Raises:
        ValueError: the value of a key is not one of the known ones.
    """
    input_ = cfg.INPUT
    _require(input_.MIN_SIZE_TRAIN_SAMPLING, "MIN_SIZE_TRAIN_SAMPLING", ("range", "choice"))
    sizes = input_.MIN_SIZE_TRAIN
    augmentations: list[T.Augmentation] = [
        ResizeShortestEdge(sizes, input_.MAX_SIZE_TRAIN, input_.MIN_SIZE_TRAIN_SAMPLING)
    ]
    if input_.CROP.ENABLED:
        kind, size = input_.CROP.TYPE, input_.CROP.SIZE
        kinds = ("relative_range", "relative", "absolute", "absolute_range")
        _require(kind, "CROP.TYPE", kinds)
        largest = input_.CROP.SINGLE_CATEGORY_MAX_AREA
        if ignore_label is None or largest >= 1:
            augmentations.append(T.RandomCrop(kind, size))
        else:
            augmentations.append(
                T.RandomCrop_CategoryAreaConstraint(kind, size, largest, ignore_label)
            )
    if input_.COLOR_AUG_SSD:
        _require(input_.FORMAT, "FORMAT", ("RGB", "BGR"))
        augmentations.append(SSDColorJitter(input_.FORMAT))
    augmentations += _flip(cfg)
    if input_.SIZE_DIVISIBILITY > 0:
        augmentations.append(PadToMultiple(input_.SIZE_DIVISIBILITY))
    return augmentations


def _require(value: str, key: str, known: tuple[str, ...]) -> None:
    if value not in known:
        names = ", ".join(map(repr, known[:-1])) + f" and {known[-1]!r}"
        raise ValueError(f"INPUT.{key} is {value!r}; known are {names}.")


def _flip(cfg: CfgNode) -> list[T.Augmentation]:
    direction = cfg.INPUT.RANDOM_FLIP
    _require(direction, "RANDOM_FLIP", ("horizontal", "vertical", "none"))
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]


class _KeepAPixel(T.Augmentation):
    """Resizing that leaves each side of a very thin image at least one pixel."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the resizing for an (H, W, C) image."""
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform):
            resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)
        return resize


class ResizeScale(_KeepAPixel, T.ResizeScale):
    """Detectron2's augmentation of that name, for very thin images too."""


class ResizeShortestEdge(_KeepAPixel, T.ResizeShortestEdge):
    """Detectron2's augmentation of that name, for very thin images too."""


class PadToMultiple(T.Augmentation):
    """Pad on the right and at the bottom until both sides are multiples of `divisor` pixels."""

    def __init__(self, divisor: int):
        super().__init__()
        self.divisor = divisor

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the padding for an (H, W, C) image."""
        height, width = image.shape[:2]
        bottom, right = -height % self.divisor, -width % self.divisor
        if not bottom and not right:
            return T.NoOpTransform()
        return T.PadTransform(0, 0, right, bottom, width, height, IMAGE_PADDING, PADDING_BYTE)


class SSDColorJitter(T.Augmentation):
    """The colour augmentation of SSD (arXiv 1512.02325): four changes, each with probability 0.5.

    Brightness changes by up to 32 of 255, contrast and saturation by a factor of 0.5 to 1.5, and
    hue by up to 36 degrees in steps of 2. Contrast changes before or after saturation and hue, with
    equal probability.

    Args:
        image_format: order of the image's channels, "RGB" or "BGR".
    """

    def __init__(self, image_format: str):
        super().__init__()
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> ColorTransform:
        """Draw the changes."""

        def sometimes(low: float, high: float, otherwise: float) -> float:
            # Both numbers are always drawn, so that later draws do not depend on the first.
            do, value = self._rand_range() < 0.5, self._rand_range(low, high)
            return float(value) if do else otherwise

        return ColorTransform(
            self.image_format,
            brightness=sometimes(-32, 32, 0.0),
            contrast=sometimes(0.5, 1.5, 1.0),
            saturation=sometimes(0.5, 1.5, 1.0),
            hue=2.0 * np.floor(sometimes(-18, 19, 0.0)),
            contrast_first=bool(self._rand_range() < 0.5),
        )


class ColorTransform(T.Transform):
    """A change of colours that leaves coordinates and label maps as they are.

    Each step rounds to whole numbers and clips to 0..255.

    Args:
        image_format: order of the channels, "RGB" or "BGR".
        brightness: added to all values, on the scale 0..255.
        contrast: factor of all values.
        saturation: factor of S of the HSV colour; S stays at most 1.
        hue: degrees to add to H of the HSV colour.
        contrast_first: change contrast before saturation and hue rather than after them.
    """

    def __init__(
        self,
        image_format: str,
        *,
        brightness: float = 0.0,
        contrast: float = 1.0,
        saturation: float = 1.0,
        hue: float = 0.0,
        contrast_first: bool = True,
    ):
        super().__init__()
        self.image_format = image_format
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.hue = saturation, hue
        self.contrast_first = contrast_first

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Return the changed (H, W, 3) uint8 image."""
        values = np.arange(256, dtype=np.float64)
        before = _to_bytes(values + self.brightness)
        contrast = _to_bytes(values * self.contrast)
        if self.contrast_first:
            before, contrast = contrast[before], _to_bytes(values)
        img = before[img]
        if self.saturation != 1 or self.hue % 360:
            img = _change_hsv(img, self.image_format, self.saturation, self.hue)
        return img if self.contrast_first else contrast[img]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return `coords`."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return `segmentation`."""
        return segmentation


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _change_hsv(image: np.ndarray, order: str, saturation: float, hue: float) -> np.ndarray:
    """Multiply S by `saturation` and add `hue` degrees to H of an (H, W, 3) uint8 image."""
    result = np.empty_like(image)
    for start in range(0, len(image), _BLOCK):
        rows = slice(start, start + _BLOCK)
        channels = [image[rows, :, order.index(name)].astype(np.float32) for name in "RGB"]
        for name, changed in zip("RGB", _shift_hsv(channels, saturation, hue), strict=True):
            result[rows, :, order.index(name)] = changed
    return result


def _shift_hsv(rgb: Sequence[np.ndarray], saturation: float, hue: float) -> list[np.ndarray]:
    """Return red, green and blue in whole numbers.

    This needs no conversion to 8-bit HSV. V is the largest channel and chroma is S times V. Each
    channel is V minus a share of chroma that depends on hue: 0 for the largest channel, 1 for the
    smallest.
    """
    r, g, b = rgb
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    red, green = value == r, value == g
    # The circle of hues has length 6 here: red is at 0, green at 2, blue at 4.
    turn = np.where(red, g - b, np.where(green, b - r, r - g)) / np.maximum(chroma, 1)
    turn += np.where(red, np.float32(0), np.where(green, np.float32(2), np.float32(4)))
    turn += np.float32(hue / 60)
    turn -= 6 * np.floor(turn / 6)
    chroma = np.minimum(chroma * np.float32(saturation), value)  # S is at most 1
    shares = (2 - abs(turn - 3), abs(turn - 2) - 1, abs(turn - 4) - 1)
    return [np.rint(value - chroma * share.clip(0, 1)) for share in shares]
