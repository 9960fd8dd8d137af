"""TIFF files of which rasterio reads regions."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask2former_runtime.image import ImageReadError, stored_bits
from mask2former_runtime.text import one_line

from ...utils.size import Size
from .grid import Region

logger = logging.getLogger(__name__)

# Of decoded blocks of the file, in MB: neighbouring tiles share them.
_CACHE = 128
_TYPES = ("uint8", "uint16")
_SCAN_ROWS = 1024


class RasterWindows:
    """A TIFF file of which rasterio reads regions; see `Windows`.

    Pixels are as `mask2former_runtime.image.read_image` gives them. Of more than three bands, the
    red, green and blue ones are taken, or the first three. Values of 16 bits are scaled from the
    range of 8, 10, 12, 14 or 16 bits, whichever is the smallest that holds all of them.

    Args:
        path: for messages.
        file: the open file.

    Raises:
        ImageReadError: its pixels do not have a defined range.
    """

    def __init__(self, path: Path, file: Any):
        self._path = path
        self._file = file
        self.size = int(file.height), int(file.width)
        if any(kind not in _TYPES for kind in file.dtypes):
            raise ImageReadError(
                f"{path}: pixels of type {file.dtypes[0]} have no defined range; save it with 8 or "
                "16 bits"
            )
        roles = [role.name for role in file.colorinterp]
        self._palette = "palette" in roles
        self._bands = _color_bands(roles)
        self._alpha = roles.index("alpha") + 1 if "alpha" in roles else None
        self._white = self._brightest() if file.dtypes[0] == "uint16" else 255
        self.georeference = place_of(path, file)

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region: (h, w, 3) uint8, BGR."""
        return self._rgb(region, region.size)[:, :, ::-1]

    def overview(self, step: int) -> np.ndarray:
        """Return a pixel of each square of step x step: (H / step, W / step, 3) uint8, RGB."""
        height, width = self.size
        return self._rgb(Region(0, 0, height, width), (-(-height // step), -(-width // step)))

    def _rgb(self, region: Region, size: Size) -> np.ndarray:
        values = self._values(region, self._bands, size)
        if self._palette:
            colors = self._file.colormap(self._bands[0])
            table = np.array([colors.get(i, (0, 0, 0, 255))[:3] for i in range(256)], np.uint8)
            return table[values[0]]
        if len(values) == 1:
            # as `read_image` scales grey values, rounded
            values = self._grey(values) if self._white > 255 else values
            values = np.repeat(values, 3, axis=0)
        elif self._white > 255:
            values = (values >> (self._white.bit_length() - 8)).astype(np.uint8)
        if self._alpha is not None:
            values = self._on_white(values, region, size)
        return np.ascontiguousarray(values.transpose(1, 2, 0))

    def _grey(self, values: np.ndarray) -> np.ndarray:
        scaled = (values.astype(np.uint32) * 510 + self._white) // (2 * self._white)
        return scaled.astype(np.uint8)

    def _on_white(self, values: np.ndarray, region: Region, size: Size) -> np.ndarray:
        alpha = self._values(region, [self._alpha], size)[0]
        if self._white > 255:
            alpha = alpha >> 8  # the range of opacity is always that of the type
        layers = (values.transpose(1, 2, 0), alpha.astype(np.uint8)[..., None])
        image = Image.fromarray(np.concatenate(layers, axis=2), "RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image).convert("RGB")).transpose(2, 0, 1)

    def _values(self, region: Region, bands: list[Any], size: Size) -> np.ndarray:
        return read_bands(self._path, self._file, bands, region, size)

    def _brightest(self) -> int:
        """Return the greatest value of the range that the file uses."""
        height, width = self.size
        most = 0
        for top in range(0, height, _SCAN_ROWS):
            band = Region(top, 0, min(top + _SCAN_ROWS, height), width)
            most = max(most, int(self._values(band, self._bands, band.size).max()))
        return (1 << stored_bits(np.array(most))) - 1


def read_bands(path: Path, file: Any, bands: list[int], region: Region, size: Size) -> np.ndarray:
    """Read some bands of a region, of as many of its pixels as `size` (h, w): (bands, h, w).

    Raises:
        ImageReadError: the file is damaged there.
    """
    (top, left, bottom, right) = region
    with _reading(path):
        return file.read(
            bands, window=((top, bottom), (left, right)), out_shape=(len(bands), *size)
        )


def place_of(path: Path, file: Any) -> dict[str, Any] | None:
    """Return where a file lies on the earth: see `Windows.georeference`."""
    from rasterio.errors import CRSError

    try:
        crs = file.crs
        known = crs is None or crs.is_geographic or crs.is_projected
    except CRSError:
        known = False
    if not known:
        logger.warning(
            "%s: its coordinate system is not known: results have its coordinates without it", path
        )
        crs = None
    if crs is None and file.transform.is_identity:
        return None
    return {"crs": crs, "transform": file.transform}


def _color_bands(roles: list[str]) -> list[int]:
    if "palette" in roles:
        return [roles.index("palette") + 1]
    colors = [roles.index(name) + 1 for name in ("red", "green", "blue") if name in roles]
    if len(colors) == 3:
        return colors
    return [1, 2, 3] if len([role for role in roles if role != "alpha"]) >= 3 else [1]


@contextlib.contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """Open a TIFF file with rasterio for a block.

    Raises:
        ImageReadError: it cannot be opened, or has several pages.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with contextlib.ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_PAM_ENABLED="NO"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        stack.enter_context(_quiet(logging.getLogger("rasterio")))
        with _reading(path):
            file = stack.enter_context(rasterio.open(path, driver="GTiff"))
        if len(file.subdatasets) > 1:
            raise ImageReadError(f"{path}: a file of several pages, and one image is expected")
        yield file


@contextlib.contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    """Show only the errors of a log: of what matters, there is a line of our own."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn rasterio's errors into one of `ImageReadError`."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        reason = error.__cause__ or error
        raise ImageReadError(
            f"{path}: damaged or not supported: {one_line(str(reason), 300)}"
        ) from error
