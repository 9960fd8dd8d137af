"""Images of every kind that Python programs hold, as pixels with their source.

Shapes:
    H, W: height and width of an image, B: images in a batch.
"""

from __future__ import annotations

import io
import itertools
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mask2former_runtime.image import IMAGE_FORMATS, ImageReadError, pixels_of
from mask2former_runtime.inputs import expand_inputs
from mask2former_runtime.prediction import ImageSource
from mask2former_runtime.text import one_line

from ..data.image import decode_image, read_image
from .video import is_video, open_video

Pixels = tuple[np.ndarray, ImageSource]
"""An image (H, W, 3), uint8, BGR, and where it comes from."""

URL_SECONDS = 30.0
"""How long a server may take to send an image."""
URL_BYTES = 64 * 2**20

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


def open_images(inputs: Any, *, channel_order: str = "RGB", allow_url: bool = False) -> Images:
    """Open what a user gives to predict on; see `mask2former.Mask2Former.predict`.

    Args:
        inputs: a path, a Pillow image, an array, a tensor, or an iterable of these.
        channel_order: "RGB" or "BGR": that of arrays and tensors.
        allow_url: whether a path may be the address of an image on the web.

    Raises:
        ValueError: the inputs are of another kind, or there are none.
    """
    if channel_order not in IMAGE_FORMATS:
        raise ValueError(f"channel_order is {channel_order!r}: choose 'RGB' or 'BGR'")
    if isinstance(inputs, str | os.PathLike):
        return _of_path(os.fspath(inputs), allow_url)
    if isinstance(inputs, Image.Image):
        return _one(pixels_of(inputs), getattr(inputs, "filename", ""))
    if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim != 4:
        return _one(_as_bgr(inputs, channel_order))
    if not isinstance(inputs, Iterable):
        raise ValueError(
            f"cannot predict on a {type(inputs).__name__}: give a path, a Pillow image, an array "
            "(H, W, 3), a tensor (3, H, W), or a list of these"
        )
    opened = (open_images(x, channel_order=channel_order, allow_url=allow_url) for x in inputs)
    items = itertools.chain.from_iterable(images.items for images in opened)
    is_finite = isinstance(inputs, list | tuple | set | np.ndarray | Tensor)
    return Images("many" if is_finite else "stream", items)


def _one(image: np.ndarray, name: str = "") -> Images:
    return Images("one", iter([(image, ImageSource(name, pixels=image[:, :, ::-1]))]))


def _of_path(path: str, allow_url: bool) -> Images:
    if path.startswith(("http://", "https://")):
        if not allow_url:
            raise ValueError(f"{one_line(path, 200)}: to download images, give allow_url=True")
        return _one(_download(path), path)
    if is_video(path):
        return Images("stream", _frames(path))
    files = expand_inputs([path])
    several = len(files) > 1 or files[0] != Path(os.path.expanduser(path))
    items = ((read_image(file), ImageSource(str(file), file=file)) for file in files)
    return Images("many" if several else "one", items)


def _frames(path: str) -> Iterator[Pixels]:
    reader = open_video(path)
    try:
        for number, frame in enumerate(reader):
            yield frame, ImageSource(f"{path} frame {number}", pixels=frame[:, :, ::-1])
    finally:
        reader.close()


def _as_bgr(image: np.ndarray | Tensor, channel_order: str) -> np.ndarray:
    """Return an array or a tensor as (H, W, 3), uint8, BGR.

    Raises:
        ValueError: it is of another shape or type, or out of range.
    """
    pixels = image
    if isinstance(pixels, Tensor):
        kind, wanted = "tensor", "(3, H, W)"
        pixels = pixels.detach().cpu()
        pixels = (pixels.float() if pixels.is_floating_point() else pixels).numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    else:
        kind, wanted = "array", "(H, W, 3)"
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in _MODES or 0 in pixels.shape:
        raise ValueError(
            f"an image has the shape {wanted} as {kind}; this one has {tuple(image.shape)}"
        )
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


def _download(url: str) -> np.ndarray:
    """Return an image on the web as (H, W, 3), uint8, BGR.

    Raises:
        ImageReadError: the server does not send an image, or not soon enough.
    """
    shown = one_line(url, 200)
    start = time.monotonic()
    content = io.BytesIO()
    try:
        with urllib.request.urlopen(url, timeout=URL_SECONDS) as response:
            while chunk := response.read1(2**16):
                content.write(chunk)
                if content.tell() > URL_BYTES:
                    raise ImageReadError(f"{shown}: more than {URL_BYTES >> 20} MiB")
                if time.monotonic() - start > URL_SECONDS:
                    raise ImageReadError(f"{shown}: not sent within {URL_SECONDS:g} s")
    except urllib.error.URLError as error:
        raise ImageReadError(f"{shown}: {one_line(str(error.reason), 200)}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageReadError):
            raise
        raise ImageReadError(f"{shown}: {one_line(str(error), 200)}") from error
    return decode_image(content.getvalue(), name=shown)
