"""Images whose channels and values are taken as they are stored: many bands, 16 bits, fractions.

`image` turns files into pictures of three channels with 8 bits. Here nothing is converted, but the
type: values become float32.

Shapes:
    H, W: height and width of the image, C: channels.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .files import is_special
from .image import (
    DECODER_ERRORS,
    ImageReadError,
    decoding_problem,
    exif_orientation,
    open_image,
    read_image,
)

STORED_TYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"
)  # fmt: skip
"""Values of ``INPUT.FORMAT`` that stand for images as they are stored, with values of this type."""
_NUMPY = ".npy"
_PILLOW = {
    "L": ("uint8", 1), "LA": ("uint8", 2), "RGB": ("uint8", 3), "RGBA": ("uint8", 4),
    "RGBa": ("uint8", 4), "RGBX": ("uint8", 4), "CMYK": ("uint8", 4), "YCbCr": ("uint8", 3),
    "F": ("float32", 1), "I": ("int32", 1),
}  # fmt: skip
# Of little- and big-endian files, and of BigTIFF.
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLES = 277  # tag SamplesPerPixel of TIFF 6.0


@dataclass(frozen=True)
class StoredKind:
    """How a file stores an image.

    Attributes:
        type: NumPy's name of the type of the values.
        channels: number of channels.
        is_picture: whether `read_image` reads it without loss, as a picture of 8 bits.
        picture_problem: why `read_image` cannot read it at all, or "".
    """

    type: str
    channels: int
    is_picture: bool = False
    picture_problem: str = ""

    def __str__(self) -> str:
        return f"{self.channels} channel{'s' * (self.channels != 1)} of {self.type}"


def kind_of_picture(image: Image.Image) -> StoredKind | None:
    """Return how a file that Pillow has opened stores its values; None if it has a palette.

    Args:
        image: of `open_image`; its pixels are not read.
    """
    if image.mode.startswith("I;16"):
        return StoredKind("uint16", 1)
    if image.mode not in _PILLOW:
        return None
    kind, channels = _PILLOW[image.mode]
    if kind != "uint8":
        name = "floating-point" if kind == "float32" else "32-bit"
        problem = f"{name} pixels have no defined range; save it with 8 or 16 bits"
        return StoredKind(kind, channels, picture_problem=problem)
    if any("16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        return StoredKind("uint16", channels)
    samples = int(getattr(image, "tag_v2", {}).get(_SAMPLES, channels))
    return StoredKind(kind, max(samples, channels), is_picture=samples <= 4)


def needs_stored(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is no picture by its name: an array of NumPy."""
    return os.fspath(path).lower().endswith(_NUMPY)


def stored_header(path: str | os.PathLike[str]) -> tuple[StoredKind, tuple[int, int]]:
    """Return how a file that Pillow cannot open stores an image, and its (height, width).

    Raises:
        ImageReadError: the file is missing or is no image.
    """
    if needs_stored(path):
        values = open_array(path)
        return kind_of_array(values), (values.shape[0], values.shape[1])
    with _open_raster(path) as file:
        return kind_of_raster(path, file), (int(file.height), int(file.width))


def read_stored(
    path: str | os.PathLike[str], kind: str | None = None, channels: int | None = None
) -> np.ndarray:
    """Read an image with the channels and values that its file stores.

    Arrays of NumPy (``.npy``) are (H, W, C) or (H, W); those of Python objects are never loaded.
    Other files are of the formats of `read_image`. TIFF files of many bands, and colours of 16
    bits, need the package rasterio.

    Args:
        path: the file.
        kind: the type that the values must have, of `STORED_TYPES`; None accepts any of them.
        channels: how many channels there must be; None accepts any number.

    Returns:
        (H, W, C) float32, contiguous and writable. Whole numbers above 2^24 are rounded.

    Raises:
        ImageReadError: the file is missing, cut off, damaged or not such an image; or a value is
            NaN, infinite or too large for float32.
    """
    name = os.fspath(path)
    if needs_stored(path):
        found: np.ndarray = open_array(path)
        described = kind_of_array(found)
    else:
        found, described = _of_image_file(path)
    try:
        check_kind(described, kind, channels)
        return as_float(np.array(found))
    except ValueError as error:
        raise ImageReadError(f"{name}: {error}") from error


def read_as(path: str | os.PathLike[str], stored: StoredKind | None) -> np.ndarray:
    """Read an image file as a model takes it.

    Args:
        path: the file.
        stored: how images are stored, if the model takes them so; see `read_stored`.

    Returns:
        (H, W, C) float32; without `stored`, what `read_image` returns.

    Raises:
        ImageReadError: the file cannot be read, or is not such an image.
    """
    return read_image(path) if stored is None else read_stored(path, stored.type, stored.channels)


def as_stored(image: np.ndarray, kind: str, channels: int) -> np.ndarray:
    """Return an array as `read_stored` returns files.

    Args:
        image: (H, W, C) or (H, W) values of this type.
        kind: see `read_stored`.
        channels: see `read_stored`.

    Raises:
        ValueError: the array is not such an image.
    """
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"an image has the shape (H, W, {channels}); this one has {image.shape}")
    values = image[:, :, None] if image.ndim == 2 else image
    check_kind(StoredKind(values.dtype.name, values.shape[2]), kind, channels)
    return as_float(values)


def as_float(values: np.ndarray) -> np.ndarray:
    """Return finite values as a contiguous float32 array of their own.

    Raises:
        ValueError: a value is NaN, infinite or too large.
    """
    with np.errstate(over="ignore"):
        found = np.array(values, dtype=np.float32, order="C")
    if not np.isfinite(found).all():
        raise ValueError("it holds NaN or infinite values, or values too large for float32")
    return found


def as_picture(image: np.ndarray) -> np.ndarray:
    """Return an image as it is drawn: (H, W, 3) uint8, RGB.

    Args:
        image: (H, W, 3) uint8, BGR, which is shown as it is; or (H, W, C) of another type. Of
            these, the first three channels are red, green and blue, or the first one alone is grey
            if there are fewer. Their values are scaled to 0..255, from the lowest to the highest
            one of each channel.
    """
    if image.dtype == np.uint8:
        return image[:, :, ::-1]
    shown = image[:, :, : 3 if image.shape[2] >= 3 else 1].astype(np.float64)
    low, high = shown.min((0, 1)), shown.max((0, 1))
    scaled = (shown - low) * (255 / np.where(high > low, high - low, 1))
    return np.repeat(np.rint(scaled).astype(np.uint8), 3 // shown.shape[2], axis=2)


def check_kind(found: StoredKind, kind: str | None, channels: int | None) -> None:
    """Check how an image is stored; see `read_stored`.

    Raises:
        ValueError: it is of another type, or of another number of channels.
    """
    wanted = StoredKind(kind or found.type, channels or found.channels)
    if (found.type, found.channels) != (wanted.type, wanted.channels):
        raise ValueError(f"{found}, and the model takes {wanted}")


def open_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array (H, W, C) of a ``.npy`` file, whose values stay in the file.

    Raises:
        ImageReadError: the file is missing, cut off or no such array.
    """
    name = os.fspath(path)
    try:
        if is_special(path):
            raise ValueError("not a regular file")
        # This reads no pickles, so arrays of objects are refused.
        values = np.lib.format.open_memmap(name, mode="r")
    except DECODER_ERRORS as problem:
        raise ImageReadError(f"{name}: {_array_problem(problem)}") from problem
    if values.dtype.name not in STORED_TYPES:
        raise ImageReadError(f"{name}: an array of {values.dtype}, and images are numbers")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ImageReadError(
            f"{name}: an array of the shape {values.shape}, and images are (H, W) or (H, W, C)"
        )
    return values[:, :, None] if values.ndim == 2 else values


def _array_problem(problem: Exception) -> str:
    text = str(problem)
    if "Python objects" in text:
        return "an array of Python objects, which is never loaded: save an array of numbers"
    if "mmap length" in text:
        return "cut off: the file is shorter than its header says"
    return decoding_problem(problem)


def kind_of_array(values: np.ndarray) -> StoredKind:
    """Return how an array (H, W, C) stores an image."""
    problem = "an array of NumPy is no picture: INPUT.FORMAT must be the type of its values"
    return StoredKind(values.dtype.name, values.shape[2], picture_problem=problem)


def _of_image_file(path: str | os.PathLike[str]) -> tuple[np.ndarray, StoredKind]:
    name = os.fspath(path)
    if not os.path.exists(path):
        raise ImageReadError(f"{name}: no such file")
    try:
        with open_image(path) as image:
            kind = kind_of_picture(image)
            if kind is None:
                raise ImageReadError(f"{name}: pixels of mode {image.mode} have no stored values")
            if (turned := exif_orientation(image)) != 1:
                raise ImageReadError(f"{name}: its EXIF orientation is {turned}: save it upright")
            if kind.channels == len(image.getbands()) and (
                kind.type != "uint16" or kind.channels == 1
            ):
                image.load()
                values = np.asarray(image)
                return (values[:, :, None] if values.ndim == 2 else values), kind
    except ImageReadError:
        if not is_unknown_tiff(path):
            raise
    with _open_raster(path) as file:
        kind = kind_of_raster(path, file)
        try:
            return np.moveaxis(file.read(), 0, 2), kind
        except Exception as problem:  # rasterio's own errors, whose base is Exception
            raise ImageReadError(f"{name}: damaged or cut off") from problem


def is_unknown_tiff(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a TIFF file of channels or a type that Pillow does not know."""
    try:
        if is_special(path):
            return False
        with open(path, "rb") as file:
            if file.read(4) not in _TIFF_MAGIC:
                return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a cut off file lacks
            Image.open(path, formats=["TIFF"]).close()
    except DECODER_ERRORS:
        return os.path.isfile(path)
    return False


def kind_of_raster(path: str | os.PathLike[str], file: Any) -> StoredKind:
    """Return how a file that rasterio has opened stores an image.

    Raises:
        ImageReadError: its channels are not of one type, or of one that is not known.
    """
    types = set(file.dtypes)
    if len(types) > 1 or not types <= set(STORED_TYPES):
        raise ImageReadError(f"{os.fspath(path)}: channels of {', '.join(sorted(types))}")
    problem = f"{file.count} channels of {file.dtypes[0]} are no picture"
    return StoredKind(file.dtypes[0], int(file.count), picture_problem=problem)


def _open_raster(path: str | os.PathLike[str]) -> Any:
    """Open a TIFF or PNG file with rasterio.

    Raises:
        ImageReadError: rasterio is missing, or cannot open the file.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as opened:
            is_tiff = opened.read(4) in _TIFF_MAGIC
        import rasterio
    except ImportError:
        raise ImageReadError(
            f"{name}: many channels, and colours of 16 bits, need rasterio: "
            'pip install "mask2former[geotiff]"'
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no place on the earth
            file = rasterio.open(name, driver="GTiff" if is_tiff else "PNG")
    except Exception as problem:  # rasterio's own errors, whose base is Exception
        raise ImageReadError(f"{name}: not an image of a known format") from problem
    if len(file.subdatasets) > 1:
        file.close()
        raise ImageReadError(f"{name}: a file of several pages, and one image is expected")
    return file
