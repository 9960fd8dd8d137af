"""Compare the image files that a COCO file names with what it says of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image
from tqdm import tqdm

from .report import Report

_EXIF_ORIENTATION = 274
# Orientations that exchange width and height when Detectron2 turns the image upright.
_TRANSPOSED = (5, 6, 7, 8)
_PROGRESS_FROM = 500
# Opening files waits for the disk or the network more than it computes.
_READER_THREADS = 8


def check_image_files(images: dict[Any, dict[str, Any]], root: str, report: Report) -> None:
    """Add to `report` the image files that are missing, unreadable or of another size.

    Only headers are read. Sizes are compared as Detectron2 does: after the image is turned upright
    by its EXIF orientation.

    Args:
        images: image id -> record of the COCO file, with a ``file_name``.
        root: folder that the file names are relative to.
        report: where problems are added.
    """
    listings: dict[str, dict[str, str]] = {}
    items = list(images.items())
    with ThreadPoolExecutor(_READER_THREADS) as pool:
        headers = pool.map(
            lambda item: _read_header(os.path.join(root, item[1]["file_name"])), items
        )
        steps = tqdm(
            zip(items, headers, strict=True),
            total=len(items),
            desc="Checking image files",
            unit=" files",
            disable=len(items) < _PROGRESS_FROM,
        )
        for (image_id, record), header in steps:
            where = {"file_name": record["file_name"], "image_id": image_id}
            if header is None:
                path = os.path.join(root, record["file_name"])
                report.add("image file not found", True, path + _hint(path, listings), **where)
            elif isinstance(header, str):
                report.add("image file cannot be read", True, header, **where)
            else:
                stored, orientation = header
                _check_size(record, stored, orientation, report, where)


def _read_header(path: str) -> tuple[tuple[int, int], int] | str | None:
    """Return (width, height) as stored and EXIF orientation; or why not; or None if not there."""
    if not os.path.isfile(path):
        return None
    try:
        with Image.open(path) as image:
            return image.size, image.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)


def _check_size(
    record: dict[str, Any],
    stored: tuple[int, int],
    orientation: int,
    report: Report,
    where: dict[str, Any],
) -> None:
    upright = stored[::-1] if orientation in _TRANSPOSED else stored
    expected = (record.get("width"), record.get("height"))
    if upright == expected or not all(isinstance(side, int) for side in expected):
        return
    detail = f"the file is {upright[0]}x{upright[1]}, the JSON says {expected[0]}x{expected[1]}"
    if orientation in _TRANSPOSED and stored == expected:
        detail += (
            f"; its EXIF orientation is {orientation} and images are turned upright when read: "
            "annotate the upright image, or remove the EXIF tag"
        )
    elif upright == expected[::-1]:
        detail += "; width and height look swapped"
    report.add("image size differs", True, detail, **where)


def _hint(path: str, listings: dict[str, dict[str, str]]) -> str:
    """Return what the missing file may be called instead, or nothing."""
    folder, name = os.path.split(path)
    if folder not in listings:
        names = os.listdir(folder) if os.path.isdir(folder) else []
        listings[folder] = {entry.lower(): entry for entry in names}
    found = listings[folder].get(name.lower())
    return f" (there is {found!r}: upper and lower case differ)" if found else ""
