"""Augmentations that change the pixels of an image and leave their places and labels as they are.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from PIL import Image, ImageFilter

# Rows whose colours are computed at a time, so that intermediate values stay in the CPU's cache.
_BLOCK = 64


class SSDColorJitter(T.Augmentation):
    """The colour augmentation of SSD (arXiv 1512.02325): four changes, each with probability 0.5.

    Contrast changes before or after saturation and hue, with equal probability. The defaults are
    SSD's.

    Args:
        image_format: order of the image's channels, "RGB" or "BGR".
        brightness: most that is added or subtracted, on the scale 0..255.
        contrast: least and greatest factor of all values.
        saturation: least and greatest factor of the saturation.
        hue: most degrees, an even number; the change is in steps of 2.
    """

    def __init__(
        self,
        image_format: str,
        *,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 36,
    ):
        super().__init__()
        self.image_format = image_format
        self.brightness = brightness
        self.contrast, self.saturation = contrast, saturation
        self.hue = hue

    def get_transform(self, image: np.ndarray) -> ColorTransform:
        """Draw the changes."""

        def sometimes(low: float, high: float, otherwise: float) -> float:
            # Both numbers are always drawn, so that later draws do not depend on the first.
            do, value = self._rand_range() < 0.5, self._rand_range(low, high)
            return float(value) if do else otherwise

        return ColorTransform(
            self.image_format,
            brightness=sometimes(-self.brightness, self.brightness, 0.0),
            contrast=sometimes(*self.contrast, 1.0),
            saturation=sometimes(*self.saturation, 1.0),
            hue=2.0 * np.floor(sometimes(-self.hue // 2, self.hue // 2 + 1, 0.0)),
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


class RandomGamma(T.Augmentation):
    """Raise values, as shares of 255, to a power from `low` to `high`: above 1 darkens.

    Black and white stay. A power and its inverse are equally likely.
    """

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the power."""
        power = math.exp(float(self._rand_range(math.log(self.low), math.log(self.high))))
        table = _to_bytes(255 * (np.arange(256) / 255) ** power)
        return T.ColorTransform(lambda pixels: table[pixels])


class RandomBlur(T.Augmentation):
    """Blur with a Gaussian of a standard deviation from `low` to `high` pixels."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the standard deviation."""
        blur = ImageFilter.GaussianBlur(float(self._rand_range(self.low, self.high)))
        return T.ColorTransform(lambda pixels: np.array(Image.fromarray(pixels).filter(blur)))


class RandomNoise(T.Augmentation):
    """Add Gaussian noise of a standard deviation from `low` to `high`, on the scale 0..255."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the standard deviation and the seed of the noise."""
        strength = float(self._rand_range(self.low, self.high))
        seed = int(self._rand_range(0, 1 << 31))

        def add(pixels: np.ndarray) -> np.ndarray:
            noise = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
            return _to_bytes(pixels + strength * noise)

        return T.ColorTransform(add)


class RandomJpeg(T.Augmentation):
    """Save as a JPEG file and read it again, with a quality from `low` to `high` of 100.

    Args:
        image_format: order of the image's channels, "RGB" or "BGR".
        low: least quality.
        high: greatest quality.
    """

    def __init__(self, image_format: str, low: int, high: int):
        super().__init__()
        self.image_format = image_format
        self.low, self.high = low, high

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the quality."""
        quality = round(float(self._rand_range(self.low, self.high)))
        step = 1 if self.image_format == "RGB" else -1

        def compress(pixels: np.ndarray) -> np.ndarray:
            file = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels[..., ::step])).save(
                file, "JPEG", quality=quality
            )
            with Image.open(file) as picture:
                return np.array(picture)[..., ::step]

        return T.ColorTransform(compress)
