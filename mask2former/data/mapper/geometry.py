"""Augmentations that turn images, exactly or with the nearest label, without OpenCV.

Detectron2's ``RandomRotation`` needs OpenCV and fills uncovered corners of label maps with class 0.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

from .labelled_input import IMAGE_PADDING, PADDING_BYTE


class ResizeTransform(T.ResizeTransform):
    """Detectron2's resizing, with Pillow's antialiasing for images of float32, too."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Return the resized (H', W', C) image of an (H, W, C) one."""
        if img.dtype != np.float32 or img.ndim != 3:
            return super().apply_image(img, interp)
        method = Image.Resampling(self.interp if interp is None else interp)
        size = self.new_w, self.new_h
        planes = [Image.fromarray(plane).resize(size, method) for plane in _planes(img)]
        return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _planes(image: np.ndarray) -> list[np.ndarray]:
    """Return the channels of an (H, W, C) image, each (H, W) in contiguous memory."""
    return [np.ascontiguousarray(plane) for plane in np.moveaxis(image, 2, 0)]


class RandomTranspose(T.Augmentation):
    """Exchange rows and columns with probability 0.5."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the exchange."""
        return TransposeTransform() if self._rand_range() < 0.5 else T.NoOpTransform()


class TransposeTransform(T.Transform):
    """The exchange of rows and columns: a turn by 90 degrees and a flip."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Return the (W, H) or (W, H, C) image of an (H, W) or (H, W, C) image."""
        return img.swapaxes(0, 1)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return the points (N, 2), x and y exchanged."""
        return coords[:, ::-1]

    def inverse(self) -> TransposeTransform:
        """Return the same exchange, which undoes itself."""
        return self


class RandomTilt(T.Augmentation):
    """Turn the image around its centre by up to `degrees` in either direction.

    The size stays. Corners that the image does not cover are padding.
    """

    def __init__(self, degrees: float):
        super().__init__()
        self.degrees = degrees

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the angle."""
        angle = self._rand_range(-self.degrees, self.degrees)
        return TiltTransform(image.shape[:2], float(angle))


class TiltTransform(T.Transform):
    """A turn around the centre of the image.

    Args:
        size: (height, width) of the image.
        degrees: the angle, counter-clockwise.
    """

    def __init__(self, size: Sequence[int], degrees: float):
        super().__init__()
        self.size = tuple(size)
        self.degrees = degrees

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Return the turned (H, W, C) image, uint8 or float32, interpolated between its pixels."""
        if img.dtype == np.float32:
            turned = [
                Image.fromarray(plane).rotate(self.degrees, Image.Resampling.BICUBIC)
                for plane in _planes(img)
            ]
            return np.stack([np.asarray(plane) for plane in turned], axis=2)
        fill = (IMAGE_PADDING,) * img.shape[2]
        picture = Image.fromarray(img)
        return np.array(picture.rotate(self.degrees, Image.Resampling.BICUBIC, fillcolor=fill))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the turned (H, W) or (H, W, C) bytes, each that of the nearest pixel."""
        if segmentation.ndim == 3:
            planes = [self.apply_segmentation(plane) for plane in np.moveaxis(segmentation, 2, 0)]
            return np.stack(planes, axis=2)
        picture = Image.fromarray(np.ascontiguousarray(segmentation))
        return np.array(
            picture.rotate(self.degrees, Image.Resampling.NEAREST, fillcolor=PADDING_BYTE)
        )

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return the turned points (N, 2), x and y in pixels from the upper left corner."""
        height, width = self.size
        center = np.array([width / 2, height / 2])
        angle = math.radians(self.degrees)
        cosine, sine = math.cos(angle), math.sin(angle)
        # y points down, so a positive angle takes the right side up.
        return (coords - center) @ np.array([[cosine, -sine], [sine, cosine]]) + center

    def inverse(self) -> TiltTransform:
        """Return the turn back; what was turned out of the image stays lost."""
        return TiltTransform(self.size, -self.degrees)
