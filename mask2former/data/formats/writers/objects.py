"""What writers of objects share: the objects of each image, their outlines, and copied images.

Shapes:
    H, W: height and width of an image, P: points of an outline.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mask2former_runtime.polygons import mask_to_polygons
from mask2former_runtime.text import counted

from ...errors import DatasetError
from ...segmentation import decode_rle, to_rle

Annotation = Mapping[str, Any]


@dataclass(frozen=True)
class SplitContent:
    """A split in COCO's form of instances.

    Attributes:
        split: "train", "val" or "all".
        content: "images", "annotations" and "categories", which were checked.
        image_root: folder that ``file_name`` of the images is relative to.
    """

    split: str
    content: Mapping[str, Any]
    image_root: str

    @property
    def names(self) -> list[str]:
        """The names of the classes, in the order of their ids."""
        return [c["name"] for c in sorted(self.content["categories"], key=lambda c: c["id"])]

    def images(self) -> Iterator[tuple[dict[str, Any], list[tuple[int, Annotation]]]]:
        """Yield each image with its annotations and their classes, numbered from 0."""
        ids = sorted(category["id"] for category in self.content["categories"])
        index = {category_id: number for number, category_id in enumerate(ids)}
        found: dict[Any, list[tuple[int, Annotation]]] = {}
        for annotation in self.content["annotations"]:
            pair = index[annotation["category_id"]], annotation
            found.setdefault(annotation["image_id"], []).append(pair)
        for image in self.content["images"]:
            yield image, found.get(image["id"], [])


@dataclass
class Target:
    """A new folder that is written to, and what its format cannot hold.

    Attributes:
        folder: the folder.
        lost: what was left out -> how often.
    """

    folder: Path
    lost: Counter[str] = field(default_factory=Counter)
    _owners: dict[Path, str] = field(default_factory=dict)

    def copy_image(self, image_root: str, name: str, place: str) -> Path:
        """Copy an image, and return its new path relative to the folder.

        Args:
            image_root: folder that `name` is relative to.
            name: of the image.
            place: folder inside of this one.

        Raises:
            DatasetError: two images have the same name, apart from the suffix.
        """
        source = os.path.join(image_root, name)
        inner = Path(name)
        if inner.is_absolute() or ".." in inner.parts:
            inner = Path(inner.name)
        target = Path(place, inner)
        stem = target.with_suffix("")
        if (owner := self._owners.setdefault(stem, source)) != source:
            raise DatasetError(
                f"{owner} and {source} would both be {stem}: give one of them another name"
            )
        (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.folder / target)
        return target

    def file(self, *parts: str | Path) -> Path:
        """Return the path of a file to write, whose folder exists."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def file_for(self, image: Path, old: str, new: str, suffix: str) -> Path:
        """Return the path of a file that is named like an image, in another folder.

        Args:
            image: path of `copy_image`.
            old: the folder in it to replace.
            new: by this folder.
            suffix: of the file.
        """
        inner = image.relative_to(old)
        return self.file(new, inner.parent, f"{inner.stem}{suffix}")

    def notes(self) -> list[str]:
        """Return what was left out, in words."""
        return [f"left out: {counted(count, what)}" for what, count in self.lost.items() if count]


def in_split(split: str) -> str:
    """Return the name of the folder of a split; that of all images has none."""
    return "" if split == "all" else split


def mask_of(annotation: Annotation, image: Mapping[str, Any]) -> np.ndarray:
    """Return the (H, W) bool mask of an object; all False if it has no pixels."""
    segmentation = usable(annotation)
    size = image["height"], image["width"]
    if not segmentation:
        return np.zeros(size, dtype=bool)
    return decode_rle(to_rle(segmentation, size), *size).astype(bool)


def usable(annotation: Annotation) -> Any:
    """Return the polygons that have an area, or the RLE, or an empty list."""
    segmentation = annotation.get("segmentation") or []
    if isinstance(segmentation, Mapping):
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) >= 6]


def outlines(annotation: Annotation, image: Mapping[str, Any]) -> list[np.ndarray]:
    """Return outlines (P, 2) in the image which, filled by the even-odd rule, are the object.

    Polygons stay as they are, unless some may overlap or reach beyond the image.
    """
    segmentation = usable(annotation)
    if isinstance(segmentation, list):
        rings = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
        size = image["width"], image["height"]
        are_inside = all((ring >= 0).all() and (ring <= size).all() for ring in rings)
        if are_inside and not _may_overlap(rings):
            return rings
    return [ring.astype(np.float64) for ring in mask_to_polygons(mask_of(annotation, image))]


def _may_overlap(rings: Sequence[np.ndarray]) -> bool:
    boxes = [(*ring.min(axis=0), *ring.max(axis=0)) for ring in rings]
    return any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )


def one_outline(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Join outlines (P, 2) to one by lines that go there and back, and so have no width.

    Each is joined where it is nearest to those before.
    """
    joined, *rest = rings
    for ring in rest:
        i, j = _nearest(joined, ring)
        around = np.concatenate([ring[j:], ring[: j + 1]])
        joined = np.concatenate([joined[: i + 1], around, joined[i:]])
    return joined


def _nearest(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Return the indices of two points that are near each other: the nearest to the first of b."""
    i = int(((a - b[0]) ** 2).sum(axis=1).argmin())
    j = int(((b - a[i]) ** 2).sum(axis=1).argmin())
    return i, j
