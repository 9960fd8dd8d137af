# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
import io

import numpy as np
import pytest
from PIL import Image

from mask2former.data.mapper.appearance import (
    RandomBlur,
    RandomGamma,
    RandomJpeg,
    RandomNoise,
    SSDColorJitter,
)


def smooth_image(side=96):
    y, x = np.mgrid[:side, :side]
    channels = [
        128 + 100 * np.sin(x / 9),
        128 + 100 * np.cos(y / 7),
        128 + 80 * np.sin((x + y) / 5),
    ]
    return np.stack(channels, axis=-1).astype(np.uint8)


def apply(augmentation, image, seed=0):
    np.random.seed(seed)
    before = image.copy()
    transform = augmentation.get_transform(image)
    result = transform.apply_image(image)
    assert result.dtype == np.uint8 and result.shape == image.shape and (image == before).all()
    labels = image[..., 0]
    assert (transform.apply_segmentation(labels) == labels).all()
    assert (transform.apply_coords(np.eye(2)) == np.eye(2)).all()
    assert (transform.apply_image(image) == result).all(), "the draw is in the transform"
    return result


def test_noise_has_the_strength():
    image = np.full((200, 200, 3), 120, np.uint8)
    for strength in (3.0, 10.0):
        noise = apply(RandomNoise(strength, strength), image) - 120.0
        assert abs(noise.std() - strength) < 0.1 and abs(noise.mean()) < 0.1
        assert abs(np.corrcoef(noise[..., 0].flat, noise[..., 1].flat)[0, 1]) < 0.02
    assert (apply(RandomNoise(5, 5), image, 1) != apply(RandomNoise(5, 5), image, 2)).any()


def test_blur_spreads_a_point():
    image = np.zeros((61, 61, 3), np.uint8)
    image[27:34, 27:34] = 255
    spread = apply(RandomBlur(2, 2), image)[..., 0].astype(float)
    x = np.arange(61) - 30
    variance = (spread * x**2).sum() / spread.sum()
    assert abs(variance - (4 + 4)) < 0.5, "that of a box of 7 pixels and of the blur"


@pytest.mark.parametrize("quality", [20, 90])
def test_jpeg_is_that_of_a_file(quality):
    image = smooth_image()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file))
    assert (apply(RandomJpeg("RGB", quality, quality), image) == expected).all()
    swapped = apply(RandomJpeg("BGR", quality, quality), image[..., ::-1].copy())
    assert (swapped[..., ::-1] == expected).all()


def test_gamma_keeps_black_and_white():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    for power in (0.5, 1.0, 2.0):
        result = apply(RandomGamma(power, power), ramp)
        assert np.abs(result / 255 - (ramp / 255) ** power).max() < 0.5 / 255 + 1e-6
    np.random.seed(0)
    tables = [RandomGamma(0.5, 2.0).get_transform(ramp).apply_image(ramp) for _ in range(400)]
    darker = np.mean([table[8, 0, 0] < 128 for table in tables])
    assert abs(darker - 0.5) < 0.1


def test_colors_change_within_the_ranges():
    jitter = SSDColorJitter("RGB", brightness=10, contrast=(0.9, 1.2), saturation=(0.4, 1), hue=8)
    np.random.seed(0)
    drawn = [jitter.get_transform(smooth_image(8)) for _ in range(500)]
    for name, low, high in (
        ("brightness", -10, 10), ("contrast", 0.9, 1.2), ("saturation", 0.4, 1), ("hue", -8, 8)
    ):  # fmt: skip
        values = np.array([getattr(transform, name) for transform in drawn])
        assert values.min() >= low and values.max() <= high
        assert np.ptp(values) > 0.9 * (high - low)
