"""Images of every kind that Python programs hold, as pixels with their source.

Shapes:
    H, W: height and width of an image, B: images in a batch.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .image import IMAGE_FORMATS, pixels_of
from .inputs import expand_inputs
from .prediction import ImageSource
from .stored import StoredKind, as_picture, as_stored, read_as

Pixels = tuple[np.ndarray, ImageSource]
"""An image (H, W, 3), uint8, BGR, or (H, W, C) as it is stored, and where it comes from."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Images:
    """One image, several, or a stream, read when it is their turn.

    Attributes:
        number: "one", "many" or "stream".
        items: the images.
    """

    number: str
    items: Iterator[Pixels]

    def results(
        self, find: Callable[[np.ndarray, ImageSource], Any], *, stream: bool = False
    ) -> Any:
        """Return what `find` finds in the image, in a list of them, or in an iterator.

        Args:
            find: takes an image and its source.
            stream: give an iterator in any case.
        """
        results = (find(image, source) for image, source in self.items)
        if stream or self.number == "stream":
            return results
        return list(results) if self.number == "many" else next(results)


def open_images(
    inputs: Any,
    *,
    channel_order: str = "RGB",
    stored: StoredKind | None = None,
    others: Callable[[Any], Images | None] = lambda inputs: None,
) -> Images:
    """Open what a user gives to predict on.

    Args:
        inputs: a path, a Pillow image, an array, or an iterable of these.
        channel_order: "RGB" or "BGR": that of arrays.
        stored: how images are stored, if the model takes them so: files and arrays (H, W, C).
        others: opens further kinds of inputs; None is for the kinds above.

    Raises:
        ValueError: the inputs are of another kind, or there are none.
    """
    if channel_order not in IMAGE_FORMATS:
        raise ValueError(f"channel_order is {channel_order!r}: choose 'RGB' or 'BGR'")
    other = others(inputs)
    if other is not None:
        return other
    if isinstance(inputs, str | os.PathLike):
        return _of_path(os.fspath(inputs), stored)
    if stored is not None and isinstance(inputs, Image.Image):
        raise ValueError("this model takes arrays and files, not Pillow's images")
    if stored is not None and isinstance(inputs, np.ndarray) and inputs.ndim != 4:
        return Images("one", iter([_as_shown(as_stored(inputs, stored.type, stored.channels), "")]))
    if isinstance(inputs, Image.Image):
        return one_image(pixels_of(inputs), getattr(inputs, "filename", ""))
    if isinstance(inputs, np.ndarray) and inputs.ndim != 4:
        return one_image(as_bgr(inputs, channel_order))
    # Of PyTorch, TensorFlow ...; those of four axes are batches
    is_tensor = hasattr(inputs, "numpy") and getattr(inputs, "ndim", 4) < 4
    if not isinstance(inputs, Iterable) or isinstance(inputs, bytes | bytearray) or is_tensor:
        raise ValueError(
            f"cannot predict on a {type(inputs).__name__}: give a path, a Pillow image, an array "
            "(H, W, 3), or a list of these"
        )
    opened = (
        open_images(x, channel_order=channel_order, stored=stored, others=others) for x in inputs
    )
    items = itertools.chain.from_iterable(images.items for images in opened)
    is_finite = hasattr(inputs, "__len__")
    return Images("many" if is_finite else "stream", items)


def one_image(image: np.ndarray, name: str = "") -> Images:
    """Return an image (H, W, 3), uint8, BGR."""
    return Images("one", iter([(image, ImageSource(name, pixels=image[:, :, ::-1]))]))


def _of_path(path: str, stored: StoredKind | None) -> Images:
    files = expand_inputs([path])
    several = len(files) > 1 or files[0] != Path(os.path.expanduser(path))
    items = (_of_file(file, stored) for file in files)
    return Images("many" if several else "one", items)


def _of_file(file: Path, stored: StoredKind | None) -> Pixels:
    image = read_as(file, stored)
    if stored is not None:
        return _as_shown(image, str(file))
    return image, ImageSource(str(file), file=file)


def _as_shown(image: np.ndarray, name: str) -> Pixels:
    """Return an image with what is drawn of it, since files of this kind are no pictures."""
    return image, ImageSource(name, pixels=as_picture(image))


def as_bgr(
    image: np.ndarray,
    channel_order: str,
    wanted: str = "(H, W, 3) as array",
    given: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Return an array as (H, W, 3), uint8, BGR.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); uint8, 0 to 255, or float, 0 to 1.
        channel_order: "RGB" or "BGR".
        wanted: the right shape, for messages.
        given: the shape that the user gave, for messages.

    Raises:
        ValueError: it is of another shape or type, or out of range.
    """
    pixels = image[:, :, None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in _MODES or 0 in pixels.shape:
        raise ValueError(f"an image has the shape {wanted}; this one has {given or image.shape}")
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):  # NaN too
            raise ValueError(
                f"pixels of type float are from 0 to 1; these are from {low:g} to {high:g}"
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"pixels are uint8, 0 to 255, or float, 0 to 1; these are {pixels.dtype}: scale them"
        )
    if channel_order == "BGR" and pixels.shape[2] >= 3:
        pixels = pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]]
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels[:, :, ::-1])
    mode = _MODES[pixels.shape[2]]
    flat = pixels[:, :, 0] if mode == "L" else pixels
    return pixels_of(Image.fromarray(np.ascontiguousarray(flat)))
