"""A pipeline of Albumentations as one Detectron2 augmentation of an image and all its targets.

Shapes:
    H, W: height and width of the image.
    H', W': height and width of the result.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from detectron2.data import transforms as T

from mask2former_runtime.text import one_line

from ...utils.size import Size
from ..errors import DatasetError
from .labelled_input import PADDING_BYTE
from .pipeline_file import KEY, moves_pixels, read_pipeline


class Albumentations(T.Augmentation):
    """Applies the pipeline in a file; see `read_pipeline`.

    The pipeline moves the image and a map of positions. Label maps and masks of any kind follow
    that map, each pixel with the label of the nearest one.

    Args:
        path: the file.
        image_format: order of the image's channels, "RGB" or "BGR". The pipeline sees RGB.

    Raises:
        ValueError: the file is not usable.
        ImportError: Albumentations is not installed.
    """

    def __init__(self, path: str, image_format: str):
        super().__init__()
        self.path = path
        self.pipeline = read_pipeline(path)
        self.moves_pixels = moves_pixels(self.pipeline)
        self.step = 1 if image_format == "RGB" else -1

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return what the pipeline does to this (H, W, 3) uint8 image.

        Raises:
            DatasetError: the pipeline fails, or its result is no such image or has no masks of its
                size.
        """
        seed = int(self._rand_range(0, 1 << 31))
        # With `set_random_seed`, all transforms would draw the same numbers.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        targets: dict[str, Any] = {"image": np.ascontiguousarray(image[..., :: self.step])}
        positions = _positions(*image.shape[:2]) if self.moves_pixels else None
        if positions is not None:
            targets["mask"] = positions
        try:
            result = self.pipeline(**targets)
        # What the code of 130 transforms raises for an image that it cannot use, OpenCV's included.
        except Exception as error:
            reason = one_line(f"{KEY} {self.path} cannot be applied: {error}")
            raise DatasetError(reason) from error
        changed, moved = result["image"], result.get("mask")
        self._check(changed, (image if moved is None else moved).shape[:2])
        changed = changed[..., :: self.step]
        if positions is None or np.array_equal(moved, positions):
            return T.ColorTransform(lambda _: changed)
        return MovedPixels(image.shape[:2], changed, _sources(moved, image.shape[:2]))

    def _check(self, image: Any, size: Size) -> None:
        made = f"an array {image.shape} of {image.dtype}" if hasattr(image, "dtype") else "no array"
        if made == "no array" or image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise DatasetError(
                f"{KEY} {self.path} makes {made} of an image; it must stay an image of three "
                "channels with whole numbers from 0 to 255"
            )
        if image.shape[:2] != tuple(size) or not image.size:
            raise DatasetError(
                f"{KEY} {self.path} makes {made} of an image, but its mask {tuple(size)}: leave "
                "out the transform whose change of size masks do not follow"
            )


def _positions(height: int, width: int) -> np.ndarray:
    """Return (H, W, 3) float32: row, column and 1, which interpolation with 0 turns into less."""
    positions = np.ones((height, width, 3), np.float32)
    positions[..., 0] = np.arange(height, dtype=np.float32)[:, None]
    positions[..., 1] = np.arange(width, dtype=np.float32)
    return positions


def _sources(moved: np.ndarray, size: Size) -> np.ndarray:
    """Return (H', W'): the number of the pixel, row by row, that each one comes from, or -1."""
    height, width = size
    share = moved[..., 2]
    inside = share >= 0.5
    places = moved[..., :2] / np.where(inside, share, 1)[..., None]
    rows, columns = np.moveaxis(np.rint(places).astype(np.int64), 2, 0)
    numbers = rows.clip(0, height - 1) * width + columns.clip(0, width - 1)
    return np.where(inside, numbers, -1)


class MovedPixels(T.Transform):
    """What a pipeline did to one image. Points cannot follow it: see `points_and_pixels`.

    Args:
        size: (height, width) of the image.
        image: (H', W', 3), the result.
        sources: (H', W'), the number of the pixel, row by row, that each one comes from; -1 where
            it comes from none, which is padding.
    """

    def __init__(self, size: Size, image: np.ndarray, sources: np.ndarray):
        super().__init__()
        self.size = size
        self.image = image
        self.sources = sources

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Return the result for the image that the pipeline was applied to."""
        return self.image

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the moved (H', W') or (H', W', C) bytes of (H, W) or (H, W, C) ones."""
        height, width = self.size
        flat = segmentation.reshape(height * width, *segmentation.shape[2:])
        moved = flat[self.sources.clip(0)]
        moved[self.sources < 0] = PADDING_BYTE
        return moved

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Raise `NotImplementedError`: only pixels can be moved."""
        raise NotImplementedError("draw polygons as masks first")


def points_and_pixels(transforms: T.TransformList) -> tuple[T.TransformList, T.TransformList]:
    """Split transforms into the first ones, which can move points, and the rest."""
    steps = transforms.transforms
    first = next((i for i, t in enumerate(steps) if isinstance(t, MovedPixels)), len(steps))
    return T.TransformList(steps[:first]), T.TransformList(steps[first:])
