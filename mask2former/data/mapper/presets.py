"""Augmentation presets for kinds of images: ``INPUT.AUGMENTATION``.

A preset adds to the resizing and the crop of a mapper. It replaces the mapper's flip, because
whether a mirrored image is plausible depends on the kind of image.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from detectron2.data import transforms as T

from .appearance import RandomBlur, RandomGamma, RandomJpeg, RandomNoise, SSDColorJitter
from .geometry import RandomTilt, RandomTranspose


@dataclass(frozen=True)
class AugmentationPreset:
    """What a value of ``INPUT.AUGMENTATION`` means; each list is applied in its order."""

    orientation: list[T.Augmentation] = field(default_factory=list)
    """Mirrors and turns the image by right angles, which is exact."""
    tilt: list[T.Augmentation] = field(default_factory=list)
    """Turns the resized image, before the crop."""
    appearance: list[T.Augmentation] = field(default_factory=list)
    """Changes the crop, before it is padded."""


def _photographs(image_format: str) -> AugmentationPreset:
    """Build what a camera and a picture service change: light, focus, noise and compression."""
    return AugmentationPreset(
        orientation=[T.RandomFlip()],
        tilt=[T.RandomApply(RandomTilt(8), 0.3)],
        appearance=[
            SSDColorJitter(image_format, contrast=(0.7, 1.25), saturation=(0.6, 1.5), hue=10),
            T.RandomApply(RandomBlur(0.4, 1.5), 0.1),
            T.RandomApply(RandomNoise(2, 12), 0.1),
            T.RandomApply(RandomJpeg(image_format, 30, 85), 0.2),
        ],
    )


def _aerial(image_format: str) -> AugmentationPreset:
    """Build all eight orientations, since no side is up, and light, season, haze and focus."""
    return AugmentationPreset(
        orientation=_all_orientations(),
        appearance=[
            SSDColorJitter(image_format, contrast=(0.75, 1.25), saturation=(0.6, 1.4), hue=8),
            T.RandomApply(T.RandomContrast(0.6, 1.0), 0.2),
            T.RandomApply(RandomBlur(0.4, 1.2), 0.15),
            T.RandomApply(RandomNoise(2, 8), 0.1),
        ],
    )


def _microscopy(image_format: str) -> AugmentationPreset:
    """Build all eight orientations, and exposure, stain, focus and noise of a sensor."""
    return AugmentationPreset(
        orientation=_all_orientations(),
        appearance=[
            SSDColorJitter(
                image_format, brightness=16, contrast=(0.8, 1.2), saturation=(0.7, 1.3), hue=14
            ),
            T.RandomApply(T.RandomContrast(0.6, 1.4), 0.5),
            T.RandomApply(RandomGamma(0.7, 1.4), 0.5),
            T.RandomApply(RandomBlur(0.5, 2.0), 0.2),
            T.RandomApply(RandomNoise(2, 12), 0.3),
        ],
    )


def _documents(image_format: str) -> AugmentationPreset:
    """Build a skewed page, fainter and darker ink, and a worse scanner; never a mirrored page."""
    return AugmentationPreset(
        tilt=[T.RandomApply(RandomTilt(3), 0.5)],
        appearance=[
            T.RandomApply(RandomGamma(0.6, 1.8), 0.5),
            T.RandomApply(T.RandomContrast(0.5, 1.1), 0.4),
            SSDColorJitter(
                image_format, brightness=20, contrast=(0.8, 1.1), saturation=(0.5, 1.3), hue=10
            ),
            T.RandomApply(RandomBlur(0.4, 1.2), 0.2),
            T.RandomApply(RandomNoise(2, 10), 0.2),
            T.RandomApply(RandomJpeg(image_format, 20, 75), 0.3),
        ],
    )


def _all_orientations() -> list[T.Augmentation]:
    """Return steps that together give each of the eight orientations one time in eight."""
    return [
        T.RandomFlip(),
        T.RandomFlip(horizontal=False, vertical=True),
        RandomTranspose(),
    ]


AUGMENTATION_PRESETS: dict[str, Callable[[str], AugmentationPreset]] = {
    "photographs": _photographs,
    "aerial": _aerial,
    "microscopy": _microscopy,
    "documents": _documents,
}
