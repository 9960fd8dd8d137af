"""Read image files of data sets, of users and of animations, by paths that Detectron2 resolves.

`mask2former_runtime.image` decodes them, for training, evaluation and inference alike.

Shapes:
    H, W: height and width of the upright image.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from mask2former_runtime import image as files
from mask2former_runtime.image import (
    ImageReadError,
    decoded,
    decoding,
    frames_of,
    load,
    to_rgb,
    upright_pixels,
)
from mask2former_runtime.stored import STORED_TYPES, as_picture, read_stored


def open_image(
    path: str | os.PathLike[str],
    error: type[ValueError] = ImageReadError,
    *,
    several: bool = False,
) -> contextlib.AbstractContextManager[Image.Image]:
    """Open an image file as `mask2former_runtime.image.open_image` does.

    Args:
        path: a file, or a path that Detectron2's ``PathManager`` resolves.
        error: see there.
        several: see there.
    """
    return files.open_image(path, error, several=several, open_file=PathManager.open)


def read_image(path: str | os.PathLike[str], format: str = "BGR") -> np.ndarray:
    """Read an image file as `mask2former_runtime.image.read_image` does; see `open_image`."""
    with open_image(path) as image:
        return decoded(image, format)


def read_input(
    path: str | os.PathLike[str], format: str, channels: int | None = None
) -> np.ndarray:
    """Read an image file as a model of an ``INPUT.FORMAT`` takes it.

    Args:
        path: a file, or a path that Detectron2's ``PathManager`` resolves.
        format: "BGR" or "RGB" for `read_image`, or a type of `STORED_TYPES` for `read_stored`.
        channels: of an image as it is stored.

    Returns:
        (H, W, 3) uint8, or (H, W, C) float32.

    Raises:
        ImageReadError: the file cannot be read, or is not such an image.
        ValueError: there is no such `format`.
    """
    if format not in STORED_TYPES:
        return read_image(path, format)
    local = PathManager.get_local_path(os.fspath(path))
    return read_stored(local, format, channels)


def read_shown(path: str | os.PathLike[str]) -> np.ndarray:
    """Read any image file as it is drawn: (H, W, 3) uint8, RGB.

    What is no picture is drawn as `as_picture` does it.

    Raises:
        ImageReadError: the file cannot be read.
    """
    try:
        return read_image(path, "RGB")
    except ImageReadError:
        local = PathManager.get_local_path(os.fspath(path))
        return np.ascontiguousarray(as_picture(read_stored(local)))


def decode_image(
    content: bytes, format: str = "BGR", *, name: str = "image", most_pixels: int | None = None
) -> np.ndarray:
    """Decode the content of an image file as `read_image` reads files.

    Args:
        content: the bytes of the file.
        format: order of the channels, "BGR" or "RGB".
        name: what messages call the image.
        most_pixels: refuse images of more pixels before they are decoded.

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        ImageReadError: see `read_image`.
        TooManyPixelsError: the image has more than `most_pixels`.
    """
    with decoding(lambda: io.BytesIO(content), name, most_pixels=most_pixels) as image:
        return decoded(image, format)


def check_header(content: bytes, *, name: str = "image", most_pixels: int | None = None) -> None:
    """Read the header of an image file in memory, which takes a moment, and no pixels.

    Args and errors are those of `decode_image`.
    """
    with decoding(lambda: io.BytesIO(content), name, most_pixels=most_pixels):
        pass


def check_pixels(image: Image.Image) -> None:
    """Decode an open image as `read_image` does, and forget the pixels.

    Of JPEG files, only each eighth row and column is computed; all of the file is still decoded.

    Raises:
        Exception: one of `DECODER_ERRORS`, which `open_image` turns into one of its own.
    """
    image.draft(None, (1, 1))
    load(image)
    to_rgb(image)


def frame_times(path: str | os.PathLike[str]) -> list[float]:
    """Return how many seconds each frame of an animation is shown, or 1 for each page of a file.

    Raises:
        ImageReadError: see `read_frames`.
    """
    times = []
    with open_image(path, several=True) as image:
        for _ in frames_of(image):
            if image.format == "TIFF":
                times.append(1.0)
                continue
            image.load()  # some formats give the duration only now
            # Viewers show frames for a tenth of a second if they state nothing or no time at all.
            times.append((image.info.get("duration") or 100.0) / 1000)
    return times


def read_frames(path: str | os.PathLike[str], format: str = "BGR") -> Iterator[np.ndarray]:
    """Yield the frames of an animation, or the pages of a file, as `read_image` reads images.

    Pages may differ in size.

    Args:
        path: see `read_image`. A file with one image has one frame.
        format: order of the channels, "BGR" or "RGB".

    Raises:
        ImageReadError: the file cannot be read, up to this frame.
    """
    with open_image(path, several=True) as image:
        for _ in frames_of(image):
            image.load()
            yield upright_pixels(image, format)
