"""From an image to the input of the network.

Shapes:
    H, W: height and width of the image, h, w: of the resized one.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .metadata import InputSpec
from .resizing import Size, resized


def network_size(height: int, width: int, min_size: int, max_size: int) -> Size:
    """Return the size to which an image is resized, as by Detectron2's ``ResizeShortestEdge``.

    Args:
        height: H.
        width: W.
        min_size: length of the shorter side, or 0 to keep the size.
        max_size: limit of the longer side, which takes precedence.

    Returns:
        (h, w), each at least 1.
    """
    if min_size == 0:
        return height, width
    factor = min_size / min(height, width)
    # The shorter side is exact at first, and all is rounded at the end.
    if height < width:
        sides = float(min_size), factor * width
    else:
        sides = factor * height, float(min_size)
    if max(sides) > max_size:
        factor = max_size / max(sides)
        sides = sides[0] * factor, sides[1] * factor
    return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))


def fitting_size(height: int, width: int, spec: InputSpec) -> Size:
    """Return the size to which an image is resized for a network.

    A file that takes one size only gets the image as large as fits into that.

    Args:
        height: H.
        width: W.
        spec: what the network takes.

    Returns:
        (h, w), each at least 1.
    """
    height, width = network_size(height, width, spec.min_size, spec.max_size)
    shrink = min((spec.height or height) / height, (spec.width or width) / width)
    if shrink < 1:
        height = max(1, min(int(height * shrink + 0.5), spec.height or height))
        width = max(1, min(int(width * shrink + 0.5), spec.width or width))
    return height, width


def network_input(image: np.ndarray, spec: InputSpec) -> tuple[np.ndarray, Size]:
    """Resize, normalise and pad an image.

    Args:
        image: (H, W, 3) uint8, BGR, or (H, W, C) float32 as it is stored.
        spec: what the network takes.

    Returns:
        (1, C, padded h, padded w) float32, and (h, w).
    """
    height, width = fitting_size(image.shape[0], image.shape[1], spec)
    if spec.stored is None:
        picture = Image.fromarray(image[:, :, ::-1] if spec.channel_order == "RGB" else image)
        values = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    else:
        rows = resized(image, height)
        values = resized(rows.swapaxes(0, 1), width).swapaxes(0, 1)
    padded = np.zeros(
        (
            1,
            len(spec.mean),
            spec.height or _multiple(height, spec.size_divisibility),
            spec.width or _multiple(width, spec.size_divisibility),
        ),
        np.float32,
    )
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        part = padded[0, channel, :height, :width]
        np.subtract(values[:, :, channel], np.float32(mean), out=part)
        part /= np.float32(std)
    return padded, (height, width)


def _multiple(length: int, of: int) -> int:
    return -(-length // of) * of
