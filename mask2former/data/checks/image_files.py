"""What the checks of data sets share: image headers, reading many files, values of label maps."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from ..image import ImageReadError, exif_orientation, open_image
from .report import Report

# Orientations that exchange width and height when Detectron2 turns the image upright.
_TRANSPOSED = (5, 6, 7, 8)
# Seconds before a progress bar appears.
_PROGRESS_AFTER = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")
Size = tuple[int, int]  # (width, height), as Pillow has it


def map_files(
    function: Callable[[Item], Result], items: Sequence[Item], description: str
) -> Iterator[Result]:
    """Yield `function` of each item, in order, with a progress bar if it takes long.

    Threads do it: opening files waits for the disk or the network, and decoders let other threads
    run.
    """
    # More than there are cores, for headers alone wait rather than compute.
    workers = max(8, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    bar = tqdm(total=len(items), desc=description, unit=" files", delay=_PROGRESS_AFTER)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 16 * workers:
                yield pending.popleft().result()
                bar.update()
        while pending:
            yield pending.popleft().result()
            bar.update()
    finally:  # an interrupted check does not go through the rest first
        bar.close()
        pool.shutdown(cancel_futures=True)


def progress(items: Sequence[Item], description: str, unit: str) -> Iterable[Item]:
    """Return the items under a progress bar that appears if it takes long."""
    return tqdm(items, desc=description, unit=unit, unit_scale=True, delay=_PROGRESS_AFTER)


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        stored: width and height as stored.
        upright: width and height once the image is turned by its EXIF orientation.
        orientation: EXIF orientation, 1 to 8.
        mode: Pillow's name for the kind of pixels, such as "RGB".
        format: such as "PNG".
    """

    stored: Size
    upright: Size
    orientation: int
    mode: str
    format: str


def read_header(path: str) -> Header | str | None:
    """Return the header of an image file; or why it cannot be read; or None if it is not there."""
    if not os.path.isfile(path):
        return None
    try:
        with open_image(path) as image:
            orientation = exif_orientation(image)
            # Pillow gives the size of a TIFF file once it is turned.
            tags = getattr(image, "tag_v2", None)
            width, height = (tags[256], tags[257]) if tags else image.size
            upright = (height, width) if orientation in _TRANSPOSED else (width, height)
            return Header((width, height), upright, orientation, image.mode, image.format or "")
    except ImageReadError as error:
        return str(error).removeprefix(f"{path}: ")


def count_values(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a label map, ascending, and how many pixels have each.

    Labels come in runs, so that only the ends of runs need sorting: many times as fast as
    `numpy.unique`.
    """
    pixels = labels.reshape(-1)
    if not pixels.size:
        return pixels, np.zeros(0, dtype=np.int64)
    ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]), pixels.size - 1)
    lengths = np.diff(ends, prepend=-1)
    values, runs = np.unique(pixels[ends], return_inverse=True)
    counts = np.bincount(runs.reshape(-1), weights=lengths)  # exact below 2^53
    return values, counts.astype(np.int64)


class CaseHints:
    """Finds what a missing file may be called instead; folders are listed once."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, str]] = {}

    def __call__(self, path: str) -> str:
        """Return a hint in brackets, or nothing."""
        folder, name = os.path.split(path)
        if folder not in self._listings:
            names = os.listdir(folder) if os.path.isdir(folder) else []
            self._listings[folder] = {entry.lower(): entry for entry in names}
        found = self._listings[folder].get(name.lower())
        return f" (there is {found!r}: upper and lower case differ)" if found else ""


def check_image_files(images: dict[Any, dict[str, Any]], root: str, report: Report) -> None:
    """Add to `report` the image files that are missing, unreadable or of another size.

    Only headers are read. Sizes are compared as Detectron2 does: after the image is turned upright
    by its EXIF orientation.

    Args:
        images: image id -> record of the COCO file, with a ``file_name``.
        root: folder that the file names are relative to.
        report: where problems are added.
    """
    if not os.path.isdir(root):
        report.add("image folder not found", True, root)
        return
    hint = CaseHints()
    paths = [os.path.join(root, record["file_name"]) for record in images.values()]
    headers = map_files(read_header, paths, "Checking image files")
    for (image_id, record), path, header in zip(images.items(), paths, headers, strict=True):
        where = {"file_name": record["file_name"], "image_id": image_id}
        if header is None:
            report.add("image file not found", True, path + hint(path), **where)
        elif isinstance(header, str):
            report.add("image file cannot be read", True, header, **where)
        else:
            _check_size(record, header, report, where)


def _check_size(
    record: dict[str, Any], header: Header, report: Report, where: dict[str, Any]
) -> None:
    expected = (record.get("width"), record.get("height"))
    upright = header.upright
    if upright == expected or not all(type(side) is int for side in expected):
        return
    detail = f"the file is {upright[0]}x{upright[1]}, the JSON says {expected[0]}x{expected[1]}"
    if header.upright != header.stored == expected:
        detail += (
            f"; its EXIF orientation is {header.orientation} and images are turned upright when "
            "read: annotate the upright image, or remove the EXIF tag"
        )
    elif upright == expected[::-1]:
        detail += "; width and height look swapped"
    report.add("image size differs", True, detail, **where)
