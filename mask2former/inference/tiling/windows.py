"""Image files of which regions are read.

TIFF files are read window by window with rasterio (``pip install "mask2former[geotiff]"``), so that
memory does not hold the image. Other formats are decoded once, as a whole.

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
    kind_of_array,
    kind_of_raster,
    needs_stored,
    open_array,
    read_stored,
    stored_header,
)

from ...data.image import open_image, read_image
from ...utils.size import Size
from .grid import Region
from .raster import RasterWindows, open_raster, place_of, read_bands

logger = logging.getLogger(__name__)

GEOTIFF_PACKAGE = "rasterio"
_TIFF = (".tif", ".tiff")


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
        """Return each step-th pixel of each step-th row: (H / step, W / step, 3) uint8, RGB."""


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
    if _by_windows(path):
        with open_raster(path) as file:
            if stored is None:
                yield RasterWindows(path, file)
            else:
                yield _stored_raster(path, file, stored)
        return
    if path.suffix.lower() in _TIFF and importlib.util.find_spec(GEOTIFF_PACKAGE) is None:
        logger.warning(
            "%s is decoded as a whole, and where it lies on the earth is lost: "
            'pip install "mask2former[geotiff]" reads it in parts',
            path,
        )
    if stored is not None and needs_stored(path):
        values = open_array(path)
        _check(path, kind_of_array(values), stored)
        yield _stored_array(path, values)
        return
    with images_of_any_size():
        if stored is None:
            image = read_image(path)
        else:
            image = read_stored(path, stored.type, stored.channels)
    yield _stored_array(path, image) if stored else WholeImage(image)


def pixels_of_file(path: Path) -> int:
    """Return how many pixels an image file says it has.

    Raises:
        ImageReadError: it cannot be opened.
    """
    if needs_stored(path):
        height, width = stored_header(path)[1]
        return width * height
    if _by_windows(path):
        with open_raster(path) as file:
            return file.width * file.height
    with images_of_any_size(), open_image(path, several=True) as image:
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
        """Return each step-th pixel of each step-th row: (H / step, W / step, 3) uint8, RGB."""
        return np.ascontiguousarray(self._image[::step, ::step, ::-1])


class StoredWindows:
    """An image of channels and values as they are stored; see `Windows`.

    Args:
        path: for messages.
        size: (H, W).
        values: returns each step-th value of each step-th row of a region, (h, w, C).
        georeference: see `Windows`.
    """

    def __init__(
        self,
        path: Path,
        size: Size,
        values: Callable[[Region, int], np.ndarray],
        georeference: dict[str, Any] | None = None,
    ):
        self._path, self._values = path, values
        self.size, self.georeference = size, georeference

    def read(self, region: Region) -> np.ndarray:
        """Return the values of a region: (h, w, C) float32."""
        return self._numbers(region, 1)

    def overview(self, step: int) -> np.ndarray:
        """Return each step-th pixel of each step-th row: (H / step, W / step, 3) uint8, RGB."""
        return np.ascontiguousarray(as_picture(self._numbers(Region(0, 0, *self.size), step)))

    def _numbers(self, region: Region, step: int) -> np.ndarray:
        try:
            return as_float(self._values(region, step))
        except ValueError as error:
            raise ImageReadError(f"{self._path}: {error}") from error


def _stored_array(path: Path, values: np.ndarray) -> StoredWindows:
    """Return the regions of an array (H, W, C), which may lie in a file."""

    def read(region: Region, step: int) -> np.ndarray:
        return values[region.top : region.bottom : step, region.left : region.right : step]

    return StoredWindows(path, (values.shape[0], values.shape[1]), read)


def _stored_raster(path: Path, file: Any, stored: StoredKind) -> StoredWindows:
    """Return the regions of a file that rasterio has opened."""
    _check(path, kind_of_raster(path, file), stored)
    bands = list(range(1, stored.channels + 1))

    def read(region: Region, step: int) -> np.ndarray:
        height, width = region.size
        size = -(-height // step), -(-width // step)
        return np.moveaxis(read_bands(path, file, bands, region, size), 0, 2)

    return StoredWindows(path, (int(file.height), int(file.width)), read, place_of(path, file))


def _check(path: Path, found: StoredKind, wanted: StoredKind) -> None:
    try:
        check_kind(found, wanted.type, wanted.channels)
    except ValueError as error:
        raise ImageReadError(f"{path}: {error}") from error
