"""What a reader of a format collects: annotations in COCO's form, where each is from, and mistakes.

A reader opens the files of one split, adds images and objects, and goes on after a mistake, so that
one report lists all of them. The objects are then checked as those of a COCO file are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from mask2former_runtime.image import IMAGE_SUFFIXES

from ...utils.size import Size
from ..checks.coco_instances import check_coco_content
from ..checks.image_files import Header, map_files, read_header
from ..checks.report import Report
from ..errors import DatasetError
from ..files import files_by_stem
from ..segmentation import area_and_box

BACKGROUND = ("background", "_background_", "__background__")
"""Names of the class of pixels that belong to no object, in lower case."""

MOST_CLASSES = 10_000


class Reading:
    """One split of a data set in COCO's form of instances, while it is read and after that.

    Category ids are 1 + the number of the class.

    Args:
        title: the annotations, for the report.
        root: folder of the data set; messages name files relative to it.
        image_root: folder of the images.
        names: the classes.

    Attributes:
        content: "images", "annotations" and "categories".
        sources: file and line or object of each annotation; None if its ids name it.
        report: the mistakes.
    """

    def __init__(self, title: str, root: str, image_root: str, names: Sequence[str]) -> None:
        self.root, self.image_root = root, image_root
        self.report = Report(title)
        self.sources: list[str] | None = []
        self._labels: dict[int, set[int]] = {}
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        }

    def short(self, path: str | os.PathLike[str]) -> str:
        """Return a path relative to the data set, for messages."""
        relative = os.path.relpath(path, self.root)
        return os.fspath(path) if relative.startswith(os.pardir) else relative

    def error(self, kind: str, detail: str, source: str | None = None) -> None:
        """Add a mistake to the report.

        Args:
            kind: its heading.
            detail: what is wrong.
            source: file, and line or object.
        """
        self.report.add(kind, True, detail, source=source)

    def warning(self, kind: str, detail: str, source: str | None = None) -> None:
        """Add what is left out and does not prevent training; see `error`."""
        self.report.add(kind, False, detail, source=source)

    def add_images(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Add images by their paths relative to `image_root`, and read their sizes.

        Returns:
            The record of each image that can be opened, by name. The report has the others.
        """
        names = list(names)
        paths = [os.path.join(self.image_root, name) for name in names]
        records = {}
        headers = map_files(partial(read_header, decode=False), paths, "Reading sizes of images")
        for name, path, header in zip(names, paths, headers, strict=True):
            if not isinstance(header, Header):
                kind = "image file cannot be read" if header else "image file not found"
                self.error(kind, header or path, self.short(path))
                continue
            height, width = header.upright
            number = len(self.content["images"]) + 1
            record = {"id": number, "file_name": name, "height": height, "width": width}
            self.content["images"].append(record)
            records[name] = record
        return records

    def add_object(
        self,
        image: Mapping[str, Any],
        label: int,
        segmentation: Any,
        source: str,
        *,
        is_crowd: bool = False,
    ) -> None:
        """Add an object.

        Args:
            image: its image, a record of `add_images`.
            label: number of the class, from 0.
            segmentation: polygons in pixels, or an RLE; the check says what is wrong with it.
            source: file, and line or object.
            is_crowd: whether it is a region whose objects are not annotated one by one.
        """
        annotation = {
            "id": len(self.content["annotations"]) + 1,
            "image_id": image["id"],
            "category_id": label + 1,
            "iscrowd": int(is_crowd),
            "segmentation": segmentation,
        }
        try:
            size = image["height"], image["width"]
            annotation["area"], annotation["bbox"] = area_and_box(segmentation, size)
        except ValueError:
            pass  # the check lists it
        self.content["annotations"].append(annotation)
        assert self.sources is not None
        self.sources.append(source)
        if not is_crowd:
            self._labels.setdefault(image["id"], set()).add(label)

    def add_ignored(self, image: Mapping[str, Any], segmentation: Any, source: str) -> None:
        """Add a region that nobody annotated: a crowd region of each class of the image so far.

        Training ignores it, and so does the evaluation for objects of these classes.
        """
        for label in sorted(self._labels.get(image["id"], {0})):
            self.add_object(image, label, segmentation, source, is_crowd=True)

    def check(self, *, evaluated: bool, pixels: bool | None) -> Report:
        """Check what was read, as `check_coco_json` checks a file; returns the complete report."""
        check_coco_content(
            self.content,
            self.image_root,
            self.report,
            evaluated=evaluated,
            pixels=pixels,
            sources=self.sources,
        )
        return self.report


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return the compressed RLE of a (H, W) bool mask, as JSON holds it."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def images_by_stem(reading: Reading, folder: str) -> dict[str, str]:
    """Return the images in a folder by their paths without suffix; report names used twice."""
    found, twins = files_by_stem(folder, IMAGE_SUFFIXES)
    for one, other in twins:
        path = os.path.join(folder, other)
        reading.error("two images of the same name", f"as {one}", reading.short(path))
    return found


def size_problem(what: str, size: Size, image: Mapping[str, Any]) -> str | None:
    """Return what is wrong if a map's (height, width) are not those of its image."""
    (height, width), (H, W) = size, (image["height"], image["width"])
    if (height, width) == (H, W):
        return None
    swapped = "; width and height look swapped" if (height, width) == (W, H) else ""
    return f"{what} is {width}x{height} pixels, the image {W}x{H}{swapped}"


def require_names(names: Sequence[str], where: str) -> list[str]:
    """Return the names of classes if they are usable and different.

    Raises:
        DatasetError: there are none or too many, or one is empty or occurs twice.
    """
    from ..coco_format import is_text

    if not 0 < len(names) <= MOST_CLASSES:
        raise DatasetError(f"{where}: {len(names)} classes, and 1 to {MOST_CLASSES} are possible")
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if not is_text(name):
            raise DatasetError(
                f"{where}: class {number} has the name {name!r:.50}; a text is needed"
            )
        if first.setdefault(name, number) != number:
            raise DatasetError(
                f"{where}: classes {first[name]} and {number} are both {name!r:.100}"
            )
    return list(names)


def relative_to(path: Path, folder: str) -> str:
    """Return a path relative to a folder, or absolute if it is not inside."""
    relative = os.path.relpath(path, folder)
    return str(path) if relative.startswith(os.pardir) else relative
