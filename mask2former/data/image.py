"""Reading arbitrary image files of users into what the models take."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# Formats that Pillow reads and people keep pictures in.
# fmt: off
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm",
    ".tga", ".tif", ".tiff", ".webp",
)
# fmt: on

# What Pillow's decoders raise on files that are not images, are cut off or are damaged.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
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


class ImageReadError(ValueError):
    """An image file cannot be read; the message names the file and the reason."""


def read_image(path: str | os.PathLike[str], format: str = "BGR") -> np.ndarray:
    """Read an image file as a viewer would show it.

    - The rotation or mirroring in the EXIF data is applied.
    - Grey, palette, black-and-white and CMYK images become RGB (CMYK without colour management).
    - Transparent pixels are blended with white: what colour a file stores under them is arbitrary.
    - 16-bit images are scaled from their whole range, 0..65535, to 0..255. An image that uses only
      the lower part of the range therefore comes out dark; nothing is clipped or stretched.
    - Of an animation or a file of several pages, the first is read.

    Args:
        path: file of any format that Pillow reads.
        format: order of the channels, "BGR" or "RGB".

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        ImageReadError: the file is missing, cut off, damaged, no image, or of a pixel type without
            a defined range (floating point, 32-bit integers).
    """
    if format not in ("BGR", "RGB"):
        raise ValueError(f"image format {format!r} is not supported; use 'BGR' or 'RGB'")
    try:
        with Path(path).open("rb") as file, Image.open(file) as image:
            image.load()
            rgb = np.asarray(_upright(_to_rgb(image), image))
    except DECODER_ERRORS as error:
        raise ImageReadError(f"{os.fspath(path)}: {decoding_problem(error)}") from error
    return np.ascontiguousarray(rgb[:, :, ::-1]) if format == "BGR" else rgb.copy()


def decoding_problem(error: Exception) -> str:
    """Return in words what one of `DECODER_ERRORS` says about a file."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"damaged or not supported: {str(error) or type(error).__name__}"


def _upright(rgb: Image.Image, original: Image.Image) -> Image.Image:
    orientation = original.getexif().get(_EXIF_ORIENTATION, 1)
    method = _ORIENTATIONS.get(orientation)
    return rgb if method is None else rgb.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey 8-bit image of one that holds 16-bit values ("I;16..." or, in older Pillow, "I")."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
    # 65535 = 255 * 257, so that black and white map to black and white.
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
