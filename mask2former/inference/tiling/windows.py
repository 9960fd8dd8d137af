"""Image files of which regions are read.

TIFF files are read window by window with rasterio (``pip install "mask2former[geotiff]"``), and so
are arrays of NumPy, so that memory does not hold the image. Other formats are decoded as a whole.

Shapes:
    H, W: height and width of the image, h, w: of a region.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mask2former_runtime.image import (
    ImageReadError,
    exif_orientation,
    images_of_any_size,
)
from mask2former_runtime.stored import (
    StoredKind,
    as_float,
    as_picture,
    check_kind,
    is_unknown_tiff,
    kind_of_array,
    kind_of_raster,
    needs_stored,
    open_array,
    read_as,
    stored_header,
)

from ...data.image import open_image
from ...utils.size import Size
from .grid import Region
from .raster import RasterWindows, open_raster, place_of, read_bands

logger = logging.getLogger(__name__)

GEOTIFF_PACKAGE = "rasterio"
_TIFF = (".tif", ".tiff")
# Tags of TIFF 6.0: in PhotometricInterpretation, 1 is grey with 0 for black, and 2 is RGB.
_PHOTOMETRIC, _EXTRA_SAMPLES = 262, 338
_PLAIN_MODES = ("L", "RGB", "RGBA", "RGBX", "I", "F")


class Windows(Protocol):
    """An image of which regions are read.

    Attributes:
        size: (H, W).
        georeference: options of a new file of rasterio in the same place; None if it is not known.
    """

    size: Size
    georeference: dict[str, Any] | None

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region: (h, w, 3) uint8, BGR, or (h, w, C) float32.

        Raises:
            ImageReadError: the file is damaged there.
        """

    def overview(self, step: int) -> np.ndarray:
        """Return a pixel of each square of step x step: (H / step, W / step, 3) uint8, RGB."""


@contextlib.contextmanager
def open_windows(path: Path, stored: StoredKind | None = None) -> Iterator[Windows]:
    """Open an image file for a block.

    Args:
        path: the file.
        stored: how it must be stored, for channels and values as they are; None is for a picture.

    Raises:
        ImageReadError: see `mask2former_runtime.image.read_image`, or `read_stored`; here images
            may have any size.
    """
    if stored is not None:
        with _open_stored(path, stored) as windows:
            yield windows
        return
    if _by_windows(path):
        with open_raster(path) as file:
            yield RasterWindows(path, file)
        return
    _warn_of_whole(path)
    with images_of_any_size():
        image = read_as(path, None)
    yield WholeImage(image)


@contextlib.contextmanager
def _open_stored(path: Path, stored: StoredKind) -> Iterator[Windows]:
    """Open an image file whose channels and values are taken as they are; see `open_windows`."""
    if needs_stored(path):
        values = open_array(path)
        _check(path, kind_of_array(values), stored)
        yield _stored_array(path, values)
    elif _by_windows(path) and _is_stored_alike(path):
        with open_raster(path) as file:
            yield _stored_raster(path, file, stored)
    else:
        _warn_of_whole(path)
        with images_of_any_size():
            values = read_as(path, stored)
        yield _stored_array(path, values)


def _warn_of_whole(path: Path) -> None:
    if path.suffix.lower() in _TIFF and importlib.util.find_spec(GEOTIFF_PACKAGE) is None:
        logger.warning(
            "%s is decoded as a whole, and where it lies on the earth is lost: "
            'pip install "mask2former[geotiff]" reads it in parts',
            path,
        )


def _is_stored_alike(path: Path) -> bool:
    """Return whether rasterio gives the values of a TIFF file that `read_stored` gives.

    Where Pillow can read a file, `read_stored` takes its values, and it converts some colours.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(images_of_any_size())
        if is_unknown_tiff(path):
            return True
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of what a cut off file lacks
        image = stack.enter_context(Image.open(path, formats=["TIFF"]))
        tags: Any = getattr(image, "tag_v2", {})
        premultiplied = (tags.get(_EXTRA_SAMPLES) or (0,))[0] == 1
        is_plain = image.mode in _PLAIN_MODES or image.mode.startswith("I;16")
        return is_plain and tags.get(_PHOTOMETRIC) in (1, 2) and not premultiplied


def pixels_of_file(path: Path) -> int:
    """Return how many pixels an image file says it has.

    Raises:
        ImageReadError: it cannot be opened.
    """
    if _by_windows(path):
        with open_raster(path) as file:
            return file.width * file.height
    with images_of_any_size():
        if needs_stored(path) or is_unknown_tiff(path):
            height, width = stored_header(path)[1]
            return width * height
        with open_image(path, several=True) as image:
            return image.width * image.height


def _by_windows(path: Path) -> bool:
    """Return whether a file is a TIFF file of one page that need not be turned."""
    if path.suffix.lower() not in _TIFF or importlib.util.find_spec(GEOTIFF_PACKAGE) is None:
        return False
    try:
        with warnings.catch_warnings(), Image.open(path, formats=["TIFF"]) as image:
            warnings.simplefilter("ignore")  # of what a cut off file lacks
            return exif_orientation(image) == 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return path.is_file()  # of channels that Pillow does not know, or damaged


class WholeImage:
    """An image in memory; see `Windows`.

    Args:
        image: (H, W, 3) uint8, BGR.
    """

    georeference: dict[str, Any] | None = None

    def __init__(self, image: np.ndarray):
        self._image = image
        self.size = image.shape[0], image.shape[1]

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region: (h, w, 3) uint8, BGR."""
        return self._image[region.slices(Region(0, 0, 0, 0))]

    def overview(self, step: int) -> np.ndarray:
        """Return a pixel of each square of step x step: (H / step, W / step, 3) uint8, RGB."""
        return np.ascontiguousarray(self._image[::step, ::step, ::-1])


class StoredWindows:
    """An image of channels and values as they are stored; see `Windows`.

    Args:
        path: for messages.
        shape: (H, W, C).
        values: takes a region, a step and a number of channels, and returns the first channels of a
            pixel of each square of step x step.
        georeference: see `Windows`.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        values: Callable[[Region, int, int], np.ndarray],
        georeference: dict[str, Any] | None = None,
    ):
        self._path, self._values = path, values
        height, width, self._channels = shape
        self.size, self.georeference = (height, width), georeference

    def read(self, region: Region) -> np.ndarray:
        """Return the values of a region: (h, w, C) float32."""
        return self._numbers(region, 1, self._channels)

    def overview(self, step: int) -> np.ndarray:
        """Return a pixel of each square of step x step: (H / step, W / step, 3) uint8, RGB."""
        shown = self._numbers(Region(0, 0, *self.size), step, 3 if self._channels >= 3 else 1)
        return np.ascontiguousarray(as_picture(shown))

    def _numbers(self, region: Region, step: int, channels: int) -> np.ndarray:
        try:
            return as_float(self._values(region, step, channels))
        except ValueError as error:
            raise ImageReadError(f"{self._path}: {error}") from error


def _stored_array(path: Path, values: np.ndarray) -> StoredWindows:
    """Return the regions of an array (H, W, C), which may lie in a file."""

    def read(region: Region, step: int, channels: int) -> np.ndarray:
        top, left, bottom, right = region
        return values[top:bottom:step, left:right:step, :channels]

    return StoredWindows(path, values.shape, read)


def _stored_raster(path: Path, file: Any, stored: StoredKind) -> StoredWindows:
    """Return the regions of a file that rasterio has opened."""
    _check(path, kind_of_raster(path, file), stored)

    def read(region: Region, step: int, channels: int) -> np.ndarray:
        height, width = region.size
        size = -(-height // step), -(-width // step)
        bands = list(range(1, channels + 1))
        return np.moveaxis(read_bands(path, file, bands, region, size), 0, 2)

    shape = int(file.height), int(file.width), int(file.count)
    return StoredWindows(path, shape, read, place_of(path, file))


def _check(path: Path, found: StoredKind, wanted: StoredKind) -> None:
    try:
        check_kind(found, wanted.type, wanted.channels)
    except ValueError as error:
        raise ImageReadError(f"{path}: {error}") from error
