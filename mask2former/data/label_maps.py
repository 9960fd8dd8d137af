"""Read label maps and panoptic PNG files.

A label map has one number per pixel: a class for semantic, a segment for panoptic segmentation. It
has the size of the upright image, which dataset dicts give as ``height`` and ``width``: if an image
file is stored rotated or mirrored and its EXIF data say so, its label map must be upright. Label
maps are read as stored; their own EXIF data are ignored.

Shapes:
    H, W: height and width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from .errors import DatasetError
from .image import open_image

LABEL_SUFFIXES = (".png", ".tif", ".tiff")

_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
_COLOR_MODES = ("RGB", "RGBA", "RGBX", "P", "L", "1")
# Pillow stretches grey values of fewer than 8 bits to 0..255, by these factors.
_STRETCH = {"L;2": 85, "L;4": 17}


def read_label_map(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a PNG or TIFF file with one channel of whole numbers, or the indices of a palette file.

    Args:
        path: file with 1 to 16 bits per pixel, or 32.

    Returns:
        (H, W), uint8, uint16 or int32.

    Raises:
        DatasetError: the file cannot be read or is not a label map; the message names it.
    """
    with open_image(path, DatasetError) as image:
        if image.mode not in _LABEL_MODES:
            raise DatasetError(
                f"{os.fspath(path)}: its pixels are {image.mode}, but a label map has one channel "
                "of whole numbers, or a palette. Save it as grey with 8 or 16 bits."
            )
        encodings = [tile[3] for tile in getattr(image, "tile", ())]
        labels = np.array(image)  # writable, as transforms expect
    if encodings:
        encoding = encodings[0] if isinstance(encodings[0], str) else encodings[0][0]
        labels = labels // np.uint8(_STRETCH[encoding]) if encoding in _STRETCH else labels
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    return labels.astype(labels.dtype.newbyteorder("="), copy=False)


def read_panoptic_png(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the segment ids R + 256 G + 65536 B of a PNG file in COCO's panoptic format.

    Returns:
        (H, W) uint32, below 2 ** 24.

    Raises:
        DatasetError: the file cannot be read or has other pixels; the message names it.
    """
    with open_image(path, DatasetError) as image:
        if image.mode not in _COLOR_MODES:
            raise DatasetError(
                f"{os.fspath(path)}: its pixels are {image.mode}, but a panoptic PNG is RGB of 8 "
                "bit: segment id = R + 256 G + 65536 B."
            )
        # Four bytes per pixel already are a 32-bit number.
        pixels = image.convert("RGB").tobytes("raw", "RGBX")
        size = image.height, image.width
    return np.frombuffer(pixels, dtype="<u4").reshape(size) & np.uint32(0xFFFFFF)


def check_size(path: str, size: Sequence[int], image_path: str, image_size: Sequence[int]) -> None:
    """Raise `DatasetError` unless the (height, width) of a label map are those of its image."""
    (height, width), (image_height, image_width) = size, image_size
    if (height, width) == (image_height, image_width):
        return
    swapped = (height, width) == (image_width, image_height)
    hint = (
        " Width and height are swapped: if the image is turned by its EXIF orientation, turn the "
        "label map in the same way."
    )
    raise DatasetError(
        f"{path} is {width} x {height} pixels (width x height), but its image {image_path} is "
        f"{image_width} x {image_height}.{hint if swapped else ''}"
    )
