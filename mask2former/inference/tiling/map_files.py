"""Maps of large images, written some rows at a time.

PNG files are written with the standard library, because Pillow needs all rows at once. Maps of
images with a known place on the earth are GeoTIFF files, in tiles, in the same place.

Shapes:
    H, W: height and width of the map, h: of a band of rows.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mask2former_runtime.files import sync_folder, write_atomically
from mask2former_runtime.maps import ids_to_rgb

from ...utils.size import Size

BAND_ROWS = 512
"""Rows at a time: a row of the blocks of GeoTIFF files."""

Rows = Callable[[int, int], np.ndarray]
"""Gives the rows from one on and before another, (h, W)."""


def write_map(
    path: Path,
    size: Size,
    rows: Rows,
    *,
    ids: bool,
    dtype: Any,
    georeference: dict[str, Any] | None,
) -> None:
    """Write a map, completely or not at all.

    Args:
        path: ``.tif`` with a `georeference`, or else ``.png``.
        size: (H, W).
        rows: gives the map.
        ids: whether these are ids of segments, which PNG files have as colours; see `ids_to_rgb`.
        dtype: of the map in the file.
        georeference: see `Windows`.
    """
    if georeference is not None:
        _write_geotiff(path, size, rows, dtype, georeference)
    else:
        write_atomically(path, lambda file: _write_png(file, size, rows, ids=ids, dtype=dtype))


def bands(height: int, most_rows: int = BAND_ROWS) -> Iterator[tuple[int, int]]:
    """Yield the first row of each band and the first after it."""
    for first in range(0, height, most_rows):
        yield first, min(first + most_rows, height)


def _write_png(file: BinaryIO, size: Size, rows: Rows, *, ids: bool, dtype: Any) -> None:
    """Write the chunks of a PNG file (ISO/IEC 15948), each row without a filter."""

    def chunk(kind: bytes, content: bytes) -> None:
        check = zlib.crc32(content, zlib.crc32(kind))
        file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check))

    bits, color_type = (8, 2) if ids else (8 * np.dtype(dtype).itemsize, 0)
    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, color_type, 0, 0, 0))
    compressor = zlib.compressobj(4)
    for first, last in bands(size[0]):
        values = rows(first, last)
        values = ids_to_rgb(values) if ids else values.astype(np.dtype(dtype).newbyteorder(">"))
        lines = np.ascontiguousarray(values).reshape(last - first, -1).view(np.uint8)
        chunk(b"IDAT", compressor.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes()))
    chunk(b"IDAT", compressor.flush())
    chunk(b"IEND", b"")


def _write_geotiff(
    path: Path, size: Size, rows: Rows, dtype: Any, georeference: dict[str, Any]
) -> None:
    import rasterio
    from rasterio.windows import Window

    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    options = {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "count": 1,
        "dtype": np.dtype(dtype).name,
        "tiled": True,
        "blockxsize": BAND_ROWS,
        "blockysize": BAND_ROWS,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    try:
        with rasterio.open(unfinished, "w", **options, **georeference) as file:
            for first, last in bands(size[0]):
                window = Window(0, first, size[1], last - first)
                file.write(rows(first, last).astype(dtype), 1, window=window)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
    sync_folder(path.parent)
