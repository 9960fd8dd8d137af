"""One mask file per object: a picture whose pixels are not 0 where the object is.

Two layouts are known:

- ``images/a.jpg`` with ``masks/a/NAME.png``, perhaps in folders of the splits,
- ``a/images/a.png`` with ``a/masks/NAME.png``, as in the Data Science Bowl 2018.

The name of a mask file is that of its class, perhaps with a number: ``cup.png``, ``cup_2.png``.
Names that are only numbers, or at least 16 hexadecimal digits, say nothing: the class is "object".
``classes.txt`` gives the order of the classes, and which there are.

The format keeps holes and overlaps, but no crowd regions; ids are the names of the files.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mask2former_runtime.image import IMAGE_SUFFIXES

from ..checks.image_files import map_files
from ..checks.semantic_folders import read_class_names
from ..errors import DatasetError
from ..files import files_by_stem, walk_files
from ..image import open_image
from .reading import MOST_CLASSES, Reading, encode_mask, size_problem
from .source import InstanceSource, by_split, subfolders

OBJECT = "object"
CLASS_FILE = "classes.txt"
_FOLDERS = ("masks", "labels", "annotations")
_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".pbm", ".webp")
# How many images are looked at to recognise the layout.
_LOOKED_AT = 200


@dataclass(frozen=True)
class ObjectMasksSource(InstanceSource):
    """A folder of mask files; a split is the folder of images and that of masks.

    The second is None if each image has a folder with both.
    """

    name: ClassVar[str] = "masks"

    def places(self, split: str) -> list[str]:
        """Return the folders."""
        return [place for place in self.splits[split] if place is not None]

    def image_root(self, split: str) -> str:
        """Return the folder of images."""
        return self.splits[split][0]

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The names of the classes: of ``classes.txt``, or else of the files.

        Raises:
            DatasetError: ``classes.txt`` cannot be used, or there are too many names.
        """
        path = os.path.join(self.root, CLASS_FILE)
        if os.path.isfile(path):
            return read_class_names(path)
        found = {
            class_of(name, ())
            for split in self.splits
            for _, folder in self._images(split)
            for name in _mask_files(folder)
        }
        if len(found) > MOST_CLASSES:
            raise DatasetError(
                f"{self.root}: the names of masks are of {len(found)} classes; list the classes in "
                f"{CLASS_FILE}, or name the files CLASS_NUMBER.png"
            )
        return sorted(found) or [OBJECT]

    def read(self, split: str) -> Reading:
        """See `InstanceSource.read`."""
        names = self.class_names
        root = self.image_root(split)
        reading = Reading(f"masks in {root}", self.root, root, names)
        folders = dict(self._images(split))
        self._report_orphans(split, set(folders.values()), reading)
        records = reading.add_images(folders)
        label_of = {name: number for number, name in enumerate(names)}
        jobs = [
            (image, os.path.join(folders[name], mask))
            for name, image in records.items()
            for mask in _mask_files(folders[name])
        ]
        found = map_files(lambda job: _read_mask(*job), jobs, "Reading masks")
        for (image, path), mask in zip(jobs, found, strict=True):
            source = reading.short(path)
            class_name = class_of(os.path.basename(path), label_of)
            label = label_of.get(class_name)
            if isinstance(mask, str):
                reading.error("mask cannot be used", mask, source)
            elif label is None:
                detail = f"{class_name!r:.100} is not in {CLASS_FILE}"
                reading.error("mask of an unknown class", detail, source)
            else:
                reading.add_object(image, label, mask, source)
        return reading

    def _images(self, split: str) -> list[tuple[str, str]]:
        """Return each image, relative to the folder of images, and the folder of its masks."""
        images, masks = self.splits[split]
        if masks is None:
            return [
                (os.path.join(folder.name, "images", name), str(folder / "masks"))
                for folder in subfolders(Path(images))
                for name in sorted(walk_files(str(folder / "images")))
                if name.lower().endswith(IMAGE_SUFFIXES)
            ]
        found, _ = files_by_stem(images, IMAGE_SUFFIXES)
        return [(name, os.path.join(masks, stem)) for stem, name in sorted(found.items())]

    def _report_orphans(self, split: str, wanted: set[str], reading: Reading) -> None:
        """Report folders of masks that belong to no image: their names may be misspelled."""
        masks = self.splits[split][1]
        if masks is None:
            return
        for folder in dict.fromkeys(os.path.dirname(n) for n in sorted(walk_files(masks))):
            path = os.path.join(masks, folder)
            if path not in wanted:
                detail = f"{self.image_root(split)} has none of this name"
                reading.error("masks without an image", detail, reading.short(path))


def _mask_files(folder: str) -> list[str]:
    try:
        return sorted(
            name
            for name in os.listdir(folder)
            if not name.startswith(".") and name.lower().endswith(_SUFFIXES)
        )
    except OSError:
        return []


def class_of(file_name: str, names: Collection[str]) -> str:
    """Return the class that the name of a mask file is of.

    Args:
        file_name: the name.
        names: the classes, as far as they are known.
    """
    stem = os.path.splitext(file_name)[0]
    if stem in names:
        return stem
    plain = re.sub(r"[ _\-.]*\(?[0-9]*\)?$", "", stem)
    says_nothing = re.fullmatch(r"[0-9a-f]{16,}|mask|object|", stem) or not plain
    return OBJECT if says_nothing and plain not in names else plain


def _read_mask(image: Mapping[str, Any], path: str) -> dict[str, Any] | str:
    """Return the RLE of a mask file, or why it cannot be used."""
    try:
        with open_image(path, DatasetError) as picture:
            if picture.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I"):
                return f"its pixels are {picture.mode}; black and another colour are needed"
            if picture.mode in ("RGBA", "LA"):
                picture = picture.convert("RGB" if picture.mode == "RGBA" else "L")
            pixels = np.asarray(picture)
    except DatasetError as error:
        return str(error)
    mask = np.asarray(pixels.any(axis=2) if pixels.ndim == 3 else pixels != 0)
    if problem := size_problem("the mask", mask.shape, image):
        return problem
    if not mask.any():
        return "the mask is empty: all of its pixels are 0"
    return encode_mask(mask)


# --- Recognising ---


def recognise(root: Path) -> ObjectMasksSource | None:
    """Return the annotations of a folder with a mask file per object, or None."""
    splits = by_split(lambda name: _folders(root, name))
    return ObjectMasksSource(str(root), splits) if splits else None


def _folders(root: Path, split: str) -> tuple[str, str | None] | None:
    """Return the folders of images and masks of a split, or None."""
    for name in _FOLDERS:
        for images, masks in (
            ((split, "images"), (split, name)),
            (("images", split), (name, split)),
        ):
            image_folder, mask_folder = root.joinpath(*images), root.joinpath(*masks)
            if image_folder.is_dir() and mask_folder.is_dir() and _fit(image_folder, mask_folder):
                return str(image_folder), str(mask_folder)
    for number, folder in enumerate(subfolders(root / split)):
        if number == _LOOKED_AT:
            break
        if (
            (folder / "images").is_dir()
            and (folder / "masks").is_dir()
            and (
                (folder / "images" / f"{folder.name}.png").is_file()
                or len(list((folder / "images").iterdir())) == 1
            )
        ):
            return str(root / split), None
    return None


def _fit(images: Path, masks: Path) -> bool:
    """Return whether a folder of masks is named like an image."""
    stems = {path.stem for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    folders = (folder for folder in subfolders(masks) if folder.name in stems)
    return any(_mask_files(str(folder)) for folder in folders)
