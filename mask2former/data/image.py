"""Read image files of every kind into the pixels that models take.

Training, evaluation and inference all read images here, so that a model is shown the same pixels
that it was trained on.

Shapes:
    H, W: height and width of the upright image.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from ..utils.files import is_special

# Formats that Pillow reads and people keep pictures in. HEIC needs pillow-heif.
# fmt: off
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm",
    ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)
# Pillow's names of their decoders. Others stay closed whatever a file is called: those of EPS and
# WMF start other programs.
_DECODERS = (
    "AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"
)
# fmt: on
# Orders of channels: values of ``INPUT.FORMAT``.
IMAGE_FORMATS = ("BGR", "RGB")

# What Pillow's decoders raise on files that are not images, are cut off or are damaged.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
    RuntimeError,  # NotImplementedError is one
    ImportError,  # the decoder is not installed
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_EXIF_ORIENTATION = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Bytes 4 to 12 of a file.
_AVIF = (b"ftypavif", b"ftypavis")
_HEIF = tuple(b"ftyp" + b for b in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))


class ImageReadError(ValueError):
    """An image file cannot be read; the message names the file and the reason."""


def read_image(path: str | os.PathLike[str], format: str = "BGR") -> np.ndarray:
    """Read an image file as a viewer would show it.

    - The rotation or mirroring in the EXIF data is applied.
    - Grey, palette, black-and-white and CMYK images become RGB (CMYK without colour management).
    - Transparent pixels are blended with white, because the colour that a file stores under them
      is arbitrary.
    - 16-bit images are scaled from their whole range, 0..65535, to 0..255. An image that uses only
      the lower part of the range therefore comes out dark; nothing is clipped or stretched.
    - The first image of an animation or of a file with several pages is read.

    Opaque 8-bit images give exactly the pixels of `detectron2.data.detection_utils.read_image`.

    Args:
        path: file of a format that `IMAGE_SUFFIXES` lists, or a path that Detectron2's
            ``PathManager`` resolves. HEIC needs the package pillow-heif, AVIF Pillow 11.3.
        format: order of the channels, "BGR" or "RGB".

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        ImageReadError: the file is missing, cut off, damaged, not an image, or of a pixel type
            without a defined range (floating point, 32-bit integers).
        ValueError: there is no such `format`.
    """
    if format not in IMAGE_FORMATS:
        raise ValueError(f"image format {format!r} is not supported; use 'BGR' or 'RGB'")
    with open_image(path) as image:
        _load(image)
        method = _ORIENTATIONS.get(exif_orientation(image))
        rgb = _to_rgb(image)
        pixels = np.asarray(rgb if method is None else rgb.transpose(method))
    return np.array(pixels[:, :, ::-1] if format == "BGR" else pixels, order="C")


def check_pixels(image: Image.Image) -> None:
    """Decode an open image as `read_image` does, and forget the pixels.

    Of JPEG files, only each eighth row and column is computed; all of the file is still decoded.

    Raises:
        Exception: one of `DECODER_ERRORS`, which `open_image` turns into one of its own.
    """
    image.draft(None, (1, 1))
    _load(image)
    _to_rgb(image)


def _load(image: Image.Image) -> None:
    """Decode, and check that the pixels have the size that the header states."""
    stated = image.size
    image.load()
    if image.size != stated:
        raise ValueError(f"the header states {stated} pixels, there are {image.size}")


@contextlib.contextmanager
def open_image(
    path: str | os.PathLike[str], error: type[ValueError] = ImageReadError
) -> Iterator[Image.Image]:
    """Open an image file for a block in which decoding problems become an `error`.

    Args:
        path: see `read_image`.
        error: the exception to raise. Its message names the file and the reason. Exceptions of
            this type that the block itself raises are left as they are.
    """
    if is_special(path):
        raise error(f"{os.fspath(path)}: not a regular file")
    try:
        with PathManager.open(os.fspath(path), "rb") as file, _decoder(file) as image:
            yield image
    except error:
        raise
    except DECODER_ERRORS as problem:
        raise error(f"{os.fspath(path)}: {decoding_problem(problem)}") from problem


def _decoder(file: BinaryIO) -> Image.Image:
    try:
        return _open_raster(file)
    except Image.UnidentifiedImageError:
        file.seek(4)
        kind = file.read(8)
        if kind in _AVIF and ".avif" not in Image.registered_extensions():
            raise ImportError("AVIF files need Pillow 11.3 or newer") from None
        if kind not in _HEIF:
            raise
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImportError("HEIC files need pillow-heif: pip install pillow-heif") from None
    register_heif_opener()
    return _open_raster(file)


def _open_raster(file: BinaryIO) -> Image.Image:
    Image.init()  # registers the decoders, once
    return Image.open(file, formats=[name for name in _DECODERS if name in Image.OPEN])


def decoding_problem(error: Exception) -> str:
    """Return in words what one of `DECODER_ERRORS` says about a file."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, ImportError):
        return str(error)
    return f"damaged or not supported: {' '.join(str(error).split()) or type(error).__name__}"


def exif_orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF data, 1 to 8; 1 (upright) without readable EXIF data."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except DECODER_ERRORS:  # as Detectron2 and viewers do: the pixels can be shown without it
        return 1
    return orientation if orientation in _ORIENTATIONS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey 8-bit image of one that holds 16-bit values ("I;16..." or, in older Pillow, "I")."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
    # 65535 = 255 * 257, so that black and white map to black and white.
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
