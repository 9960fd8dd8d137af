"""Parts that all checks share: image headers, reading many files, values of label maps."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from mask2former_runtime.image import ImageReadError, exif_orientation
from mask2former_runtime.stored import (
    StoredKind,
    is_unknown_tiff,
    kind_of_picture,
    needs_stored,
    read_stored,
    stored_header,
)

from ...utils.progress import with_progress
from ...utils.size import Size
from ..errors import DatasetError
from ..image import check_pixels, open_image
from ..segmentation import check_sides
from .report import Report
from .stored_images import StoredCheck

# EXIF orientations for which turning the image upright swaps width and height.
_TRANSPOSED = (5, 6, 7, 8)
# Seconds before a progress bar appears.
PROGRESS_AFTER = 2.0
# Images whose decoding is timed, and the most seconds that decoding all of them may take unasked.
_SAMPLE = 32
_MAX_SECONDS = 30.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_files(
    function: Callable[[Item], Result], items: Sequence[Item], description: str
) -> Iterator[Result]:
    """Yield the results of `function` in order, with a progress bar if it takes long.

    The function runs in threads: opening files waits for the disk or the network, and decoders let
    other threads run.
    """
    # More threads than cores, because reading headers mostly waits.
    workers = max(8, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    bar = with_progress(
        description=description, total=len(items), unit="files", delay=PROGRESS_AFTER
    )
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 16 * workers:
                yield pending.popleft().result()
                bar.update()
        while pending:
            yield pending.popleft().result()
            bar.update()
    finally:  # so that an interrupted check does not process the rest first
        bar.close()
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
        stored: (height, width) as stored.
        upright: (height, width) after turning the image upright by its EXIF orientation.
        orientation: EXIF orientation, 1 to 8.
        mode: Pillow's name for the kind of pixels, such as "RGB".
        format: Pillow's name for the file format, such as "PNG".
        kind: how the values are stored, or None for a palette.
    """

    stored: Size
    upright: Size
    orientation: int
    mode: str
    format: str
    kind: StoredKind | None = None


def read_header(path: str, decode: bool = False) -> Header | str | None:
    """Return the header of an image file, or why it cannot be read, or None if it is missing.

    Args:
        path: the file.
        decode: also decode the pixels, to find files that are cut off or damaged.
    """
    if not os.path.exists(path):
        return None
    try:
        return _header(path, decode)
    except ImageReadError as error:
        return str(error).removeprefix(f"{path}: ")


def _header(path: str, decode: bool) -> Header:
    if not needs_stored(path):
        try:
            return _picture_header(path, decode)
        except ImageReadError:
            if not is_unknown_tiff(path):
                raise
    kind, size = stored_header(path)
    if decode:
        read_stored(path)
    return Header(size, size, 1, "", "", kind)


def _picture_header(path: str, decode: bool) -> Header:
    """Return the header of a file that Pillow reads; see `read_header`."""
    with open_image(path) as image:
        kind = kind_of_picture(image)  # first: the orientation of PNG files comes with their pixels
        orientation = exif_orientation(image)
        # Pillow gives the size of a TIFF file after turning it.
        tags = getattr(image, "tag_v2", None)
        width, height = (tags[256], tags[257]) if tags else image.size
        upright = (width, height) if orientation in _TRANSPOSED else (height, width)
        stored, names = (height, width), (image.mode, image.format or "")
        if decode and not (kind and kind.picture_problem):
            check_pixels(image)
    if decode and kind is not None and kind.picture_problem:
        read_stored(path)
    return Header(stored, upright, orientation, *names, kind)


def choose_decoding(paths: Sequence[str], pixels: bool | None, report: Report) -> bool:
    """Return whether to decode all images, and note in `report` if they are too many for that.

    Args:
        paths: the image files.
        pixels: True to decode, False not to; None decodes if a sample says that it takes less than
            about half a minute.
        report: where the note is added.
    """
    if pixels is not None or len(paths) <= 2 * _SAMPLE:
        return pixels is not False
    sample = [paths[i * len(paths) // _SAMPLE] for i in range(_SAMPLE)]
    start = time.perf_counter()
    for _ in map_files(partial(read_header, decode=True), sample, "Timing a sample"):
        pass
    seconds = (time.perf_counter() - start) / len(sample) * len(paths)
    if seconds > _MAX_SECONDS:
        report.notes.append(
            f"only the headers of the {len(paths)} images were read, because decoding them would "
            f"take about {max(1, round(seconds / 60))} min: --full-pixel-check (pixels=True) does"
        )
    return seconds <= _MAX_SECONDS


def image_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of an image file.

    Raises:
        DatasetError: the file is missing or cannot be read.
    """
    header = read_header(os.fspath(path))
    if not isinstance(header, Header):
        raise DatasetError(f"{os.fspath(path)}: {header or 'no such file'}")
    return header


def count_values(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a label map in ascending order, and how many pixels have each.

    Labels come in long runs. Sorting one value per run is many times faster than `numpy.unique`.
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
    """Finds files whose names differ from a missing one only in case; lists each folder once."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, str]] = {}

    def __call__(self, path: str) -> str:
        """Return a hint in brackets, or an empty text."""
        folder, name = os.path.split(path)
        if folder not in self._listings:
            names = os.listdir(folder) if os.path.isdir(folder) else []
            self._listings[folder] = {entry.lower(): entry for entry in names}
        found = self._listings[folder].get(name.lower())
        return f" (there is {found!r}: upper and lower case differ)" if found else ""


def check_image_files(
    images: dict[Any, dict[str, Any]], root: str, report: Report, pixels: bool | None
) -> None:
    """Add to `report` the image files that are missing, unreadable or of another size.

    Like Detectron2, this compares sizes after turning the image upright by its EXIF orientation.

    Args:
        images: image id -> record of the COCO file, with a ``file_name``.
        root: folder that the file names are relative to.
        report: where problems are added.
        pixels: see `choose_decoding`.
    """
    if not os.path.isdir(root):
        report.add("image folder not found", True, root)
        return
    hint = CaseHints()
    paths = [os.path.join(root, record["file_name"]) for record in images.values()]
    read = partial(read_header, decode=choose_decoding(paths, pixels, report))
    headers = map_files(read, paths, "Checking image files")
    stored = StoredCheck(report)
    for (image_id, record), path, header in zip(images.items(), paths, headers, strict=True):
        where = {"file_name": record["file_name"], "image_id": image_id}
        if header is None:
            report.add("image file not found", True, path + hint(path), **where)
        elif isinstance(header, str):
            report.add("image file cannot be read", True, header, **where)
        elif (size := record_size(record)) not in (None, header.upright):
            texts, remedy = ("the file is", "the JSON says"), "annotate the upright image"
            detail = size_difference(texts, (header.upright, size), header, remedy)
            report.add("image size differs", True, detail, **where)
        if isinstance(header, Header):
            stored.add(path, header.kind, **where)
    stored.finish()


def record_size(record: Mapping[str, Any]) -> Size | None:
    """Return (height, width) of the record of an image, or None if they are not usable."""
    size: Any = record.get("height"), record.get("width")
    try:
        check_sides(*size)
    except ValueError:
        return None
    return size


def size_difference(
    texts: tuple[str, str], sizes: tuple[Size, Size], image: Header | None = None, remedy: str = ""
) -> str:
    """Describe two sizes that differ, and the likely cause.

    Args:
        texts: the words before each size.
        sizes: the sizes.
        image: the header of the image, if one of the sizes is that of the upright image.
        remedy: what to do if the other size is that of the image as stored.
    """
    detail = ", ".join(f"{text} {w}x{h}" for text, (h, w) in zip(texts, sizes, strict=True))
    if image is not None and image.stored != image.upright and image.stored in sizes:
        return (
            f"{detail}; its EXIF orientation is {image.orientation} and images are turned upright "
            f"when read: {remedy}, or remove the EXIF tag"
        )
    return detail + ("; width and height look swapped" if sizes[0] == sizes[1][::-1] else "")
