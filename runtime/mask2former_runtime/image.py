"""Read image files of every kind into the pixels that models take.

Training, evaluation and inference all decode images here, so that a model is shown the same pixels
that it was trained on.

Shapes:
    H, W: height and width of the upright image.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from .files import is_special

# Formats that Pillow reads and people keep pictures in, and arrays of NumPy, which are read as they
# are stored (see `stored`). HEIC needs pillow-heif.
# fmt: off
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".npy", ".pbm",
    ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp",
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

# Tags and flags of TIFF 6.0, section 8: NewSubfileType.
_TIFF_SUBFILE, _TIFF_REDUCED, _TIFF_MASK = 254, 1, 4
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


class TooManyPixelsError(ImageReadError):
    """An image is larger than the caller allows."""


def read_image(path: str | os.PathLike[str], format: str = "BGR") -> np.ndarray:
    """Read an image file as a viewer would show it.

    - The rotation or mirroring in the EXIF data is applied.
    - Grey, palette, black-and-white and CMYK images become RGB (CMYK without colour management).
    - Transparent pixels are blended with white, because the colour that a file stores under them
      is arbitrary.
    - Grey 16-bit images are scaled to 0..255 from the range of 8, 10, 12, 14 or 16 bits, whichever
      is the smallest that holds all values: see `stored_bits`. Of 16-bit colour images, Pillow
      reads the upper 8 bits.

    Opaque 8-bit images give exactly the pixels of `detectron2.data.detection_utils.read_image`.

    Args:
        path: file of a format that `IMAGE_SUFFIXES` lists. HEIC needs the package pillow-heif, AVIF
            Pillow 11.3.
        format: order of the channels, "BGR" or "RGB".

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        ImageReadError: the file is missing, cut off, damaged, not an image, an animation or of
            several pages, or of a pixel type without a defined range (floating
            point, 32-bit integers).
        ValueError: there is no such `format`.
    """
    with open_image(path) as image:
        return decoded(image, format)


def decoded(image: Image.Image, format: str) -> np.ndarray:
    """Return the pixels of an image of `open_image`, as `read_image` does.

    Raises:
        ValueError: there is no such `format`.
        Exception: one of `DECODER_ERRORS`, which `open_image` turns into one of its own.
    """
    if format not in IMAGE_FORMATS:
        raise ValueError(f"image format {format!r} is not supported; use 'BGR' or 'RGB'")
    load(image)
    return upright_pixels(image, format)


def upright_pixels(image: Image.Image, format: str) -> np.ndarray:
    """Return the pixels of a loaded image, turned as its EXIF data say; see `read_image`."""
    method = _ORIENTATIONS.get(exif_orientation(image))
    rgb = to_rgb(image)
    pixels = np.asarray(rgb if method is None else rgb.transpose(method))
    return np.array(pixels[:, :, ::-1] if format == "BGR" else pixels, order="C")


def pixels_of(image: Image.Image, format: str = "BGR") -> np.ndarray:
    """Return the pixels of a Pillow image as `read_image` does, but without turning it.

    Args:
        image: of any mode that `read_image` can read.
        format: order of the channels, "BGR" or "RGB".

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        ImageReadError: the image is damaged, an animation, or of a pixel type without a defined
            range.
    """
    if 0 in image.size:
        raise ImageReadError(f"the image has no pixels: it is {image.width} x {image.height}")
    try:
        several = has_several_frames(image)
        pixels = np.asarray(to_rgb(image))
    except DECODER_ERRORS as problem:
        raise ImageReadError(f"the image cannot be used: {decoding_problem(problem)}") from problem
    if several:
        raise ImageReadError(
            "the image is an animation or has several pages: give a copy() of one, or the path of "
            "the file"
        )
    return np.array(pixels[:, :, ::-1] if format == "BGR" else pixels, order="C")


@contextlib.contextmanager
def images_of_any_size() -> Iterator[None]:
    """Accept images in a block that Pillow refuses to decode: of more than 179 million pixels.

    The limit is that of the process, so this is for programs that do nothing else at the time.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def load(image: Image.Image) -> None:
    """Decode, and check that the pixels have the size that the header states."""
    stated = image.size
    image.load()
    if image.size != stated:
        raise ValueError(f"the header states {stated} pixels, there are {image.size}")


# --- Animations and files of several pages ---


class _SeveralFramesError(ValueError):
    """A file holds several images, and one is expected."""


def frames_of(image: Image.Image) -> Iterator[Image.Image]:
    """Move an open file from frame to frame or page to page, without previews and masks.

    The further images of MPO and HEIF files are depth maps, previews or other shots; photographs
    of telephones have them, and viewers show only the first image. The number of frames that a
    header states is not used: it may be anything.

    Yields:
        The file, at a frame that can be loaded.
    """
    if image.format in ("MPO", "HEIF") or not getattr(image, "is_animated", False):
        yield image
        return
    for number in itertools.count():
        try:
            image.seek(number)
        except EOFError:
            return
        # Pyramids hold smaller versions of the first page, and some programs add masks.
        kind = image.tag_v2.get(_TIFF_SUBFILE, 0) if image.format == "TIFF" else 0  # type: ignore
        if number == 0 or not kind & (_TIFF_REDUCED | _TIFF_MASK):
            yield image


def has_several_frames(image: Image.Image) -> bool:
    """Return whether an open file has a second frame or page; it looks no further than that."""
    current = image.tell()
    several = len(list(itertools.islice(frames_of(image), 2))) > 1
    if image.tell() != current:
        image.seek(current)
    return several


@contextlib.contextmanager
def open_image(
    path: str | os.PathLike[str],
    error: type[ValueError] = ImageReadError,
    *,
    several: bool = False,
    open_file: Callable[[str, Literal["rb"]], BinaryIO] = open,
) -> Iterator[Image.Image]:
    """Open an image file for a block in which decoding problems become an `error`.

    Args:
        path: see `read_image`.
        error: the exception to raise. Its message names the file and the reason. Exceptions of
            this type that the block itself raises are left as they are.
        several: accept animations and files of several pages. By default they are refused, because
            a reader would take the first image for all there is.
        open_file: opens the file; another one than Python's may resolve addresses.
    """
    if is_special(path):
        raise error(f"{os.fspath(path)}: not a regular file")
    name = os.fspath(path)
    with decoding(lambda: open_file(name, "rb"), name, error, several) as image:
        yield image


@contextlib.contextmanager
def decoding(
    open_file: Callable[[], BinaryIO],
    name: str,
    error: type[ValueError] = ImageReadError,
    several: bool = False,
    most_pixels: int | None = None,
) -> Iterator[Image.Image]:
    """Open an image for a block; see `open_image`.

    Args:
        open_file: opens it.
        name: what messages call it.
        error: see `open_image`.
        several: see `open_image`.
        most_pixels: refuse images of more pixels before they are decoded (`TooManyPixelsError`).
    """
    try:
        with open_file() as file, _decoder(file) as image:
            pixels = image.width * image.height
            if most_pixels is not None and pixels > most_pixels:
                raise TooManyPixelsError(
                    f"{name}: {image.width} x {image.height} pixels, and at most "
                    f"{most_pixels / 1e6:g} million are accepted"
                )
            if not several and has_several_frames(image):
                raise _SeveralFramesError(
                    "an animation or a file of several pages, and one image is expected: save one "
                    "of them, or give the file as the only input of `mask2former predict`, which "
                    "reads all as a video (demo.py: --video-input)"
                )
            yield image
    except (error, TooManyPixelsError):
        raise
    except DECODER_ERRORS as problem:
        raise error(f"{name}: {decoding_problem(problem)}") from problem


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
    if isinstance(error, (ImportError, _SeveralFramesError)):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return (
            "more than 178 million pixels, which are decoded only on request: `mask2former predict "
            "--tile 1024` takes images of any size"
        )
    return f"damaged or not supported: {' '.join(str(error).split()) or type(error).__name__}"


def exif_orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF data, 1 to 8; 1 (upright) without readable EXIF data."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except DECODER_ERRORS:  # as Detectron2 and viewers do: the pixels can be shown without it
        return 1
    return orientation if orientation in _ORIENTATIONS else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image of any mode as `read_image` shows it, but without turning it.

    Raises:
        ValueError: its pixels have no defined range.
    """
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
    # These formats state the range of their values, and Pillow has scaled them by it.
    stated = image.format in ("PPM", "JPEG2000")
    white = (1 << (16 if stated else stored_bits(values))) - 1
    scaled = (values.astype(np.uint32) * 510 + white) // (2 * white)  # rounded; white becomes 255
    return Image.fromarray(scaled.astype(np.uint8))


def stored_bits(values: np.ndarray) -> int:
    """Return how many bits the values of a 16-bit image use: 8, 10, 12, 14 or 16.

    PNG and TIFF files of cameras and scanners hold 10-, 12- or 14-bit values in 16 bits without a
    note that Pillow can read. The smallest of these ranges that holds the greatest value is taken
    for that of the camera, so an image whose brightest pixel is in the lower quarter of the
    camera's range comes out too bright.

    Args:
        values: whole numbers from 0 to 65535, of any shape.
    """
    most = int(values.max(initial=0))
    return next(bits for bits in (8, 10, 12, 14, 16) if most < 1 << bits)
