"""Images of every kind that Python programs hold: also tensors, videos and addresses."""

from __future__ import annotations

import http.client
import io
import os
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mask2former_runtime import images as images_module
from mask2former_runtime.image import ImageReadError
from mask2former_runtime.images import Images, Pixels, as_bgr, one_image
from mask2former_runtime.prediction import ImageSource
from mask2former_runtime.stored import StoredKind
from mask2former_runtime.text import one_line

from ..data.image import decode_image
from .video import is_video, open_video

URL_SECONDS = 30.0
"""How long a server may take to send an image."""
URL_BYTES = 64 * 2**20


def open_images(
    inputs: Any,
    *,
    channel_order: str = "RGB",
    allow_url: bool = False,
    stored: StoredKind | None = None,
) -> Images:
    """Open what a user gives to predict on; see `mask2former.Mask2Former.predict`.

    Args:
        inputs: a path, a Pillow image, an array, a tensor, or an iterable of these.
        channel_order: "RGB" or "BGR": that of arrays and tensors.
        allow_url: whether a path may be the address of an image on the web.
        stored: how images are stored, if the model takes them so: files, arrays (H, W, C) and
            tensors (C, H, W) of this type.

    Raises:
        ValueError: the inputs are of another kind, or there are none.
    """

    def others(item: Any) -> Images | None:
        if stored is not None:
            if not isinstance(item, Tensor) or item.ndim == 4:
                return None
            values = item.detach().cpu().numpy()
            values = np.moveaxis(values, 0, -1) if item.ndim == 3 else values
            return images_module.open_images(values, stored=stored)
        if isinstance(item, Tensor) and item.ndim != 4:
            return one_image(_bgr_of(item, channel_order))
        if isinstance(item, str | os.PathLike):
            path = os.fspath(item)
            if path.startswith(("http://", "https://")):
                return _of_url(path, allow_url)
            if is_video(path):
                return Images("stream", _frames(path))
        return None

    return images_module.open_images(
        inputs, channel_order=channel_order, stored=stored, others=others
    )


def _of_url(url: str, allow_url: bool) -> Images:
    if not allow_url:
        raise ValueError(f"{one_line(url, 200)}: to download images, give allow_url=True")
    return one_image(_download(url), url)


def _frames(path: str) -> Iterator[Pixels]:
    reader = open_video(path)
    try:
        for number, frame in enumerate(reader):
            yield frame, ImageSource(f"{path} frame {number}", pixels=frame[:, :, ::-1])
    finally:
        reader.close()


def _bgr_of(image: Tensor, channel_order: str) -> np.ndarray:
    """Return a tensor (3, H, W) as (H, W, 3), uint8, BGR; see `as_bgr`."""
    if image.layout is not torch.strided or image.is_meta or image.is_quantized:
        raise ValueError("an image is a dense tensor that holds its values")
    values = image.detach().cpu()
    pixels = (values.float() if values.is_floating_point() else values).numpy()
    pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    return as_bgr(pixels, channel_order, "(3, H, W) as tensor", tuple(image.shape))


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
    except ImageReadError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error  # of an URLError
        raise ImageReadError(f"{shown}: {one_line(str(reason), 200)}") from error
    return decode_image(content.getvalue(), name=shown)
