"""Pascal VOC segmentation: a PNG of classes and one of objects per image.

``JPEGImages`` holds the images, ``SegmentationClass`` and ``SegmentationObject`` the maps, and
``ImageSets/Segmentation/train.txt`` and ``val.txt`` list the names of the images without suffix.
Label 0 is background, and 255 or the colour (224, 224, 192) is void, which becomes crowd regions.
``labelmap.txt`` gives the classes and their colours, as CVAT writes it; without it, they are the 20
classes of VOC. Without ``SegmentationObject``, the data are label maps, which are for semantic
segmentation.

The format keeps holes; objects cannot overlap, and have no ids and no crowd regions.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mask2former_runtime.image import IMAGE_SUFFIXES

from ...structures import Color
from ..checks.image_files import count_values, map_files
from ..errors import DatasetError
from ..files import files_by_stem, read_text
from ..image import open_image
from ..label_maps import read_label_map
from .color_tables import (
    ColorTable,
    code_of,
    color_of,
    counts_of,
    first_of_color,
    read_codes,
    read_table,
    table_of,
)
from .maps import MapPair, MapSource
from .reading import BACKGROUND, Reading, encode_mask, size_problem
from .source import TRAIN, VAL, WHOLE, InstanceSource, Source

VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
VOID_COLOR: Color = (224, 224, 192)
VOID = 255
IMAGES, CLASS_MAPS, OBJECT_MAPS = "JPEGImages", "SegmentationClass", "SegmentationObject"
LISTS = "ImageSets/Segmentation"
TABLE = "labelmap.txt"


def voc_color(number: int) -> Color:
    """Return colour `number` of VOC's palette: its bits, spread over red, green and blue."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


@dataclass(frozen=True)
class _VocFolder(Source):
    """What both kinds of annotations share; a split is the file that lists its names, or None."""

    def places(self, split: str) -> list[str]:
        """Return the list of names and the folders."""
        folders = (IMAGES, CLASS_MAPS, *((OBJECT_MAPS,) if self.task == "instance" else ()))
        listed = self.splits[split]
        return [*([] if listed is None else [listed]), *(f"{self.root}/{f}" for f in folders)]

    def image_root(self, split: str) -> str:
        """Return the folder of images."""
        return os.path.join(self.root, IMAGES)

    @functools.cached_property
    def table(self) -> ColorTable:
        """The colours of the classes, background first.

        Raises:
            DatasetError: ``labelmap.txt`` cannot be used.
        """
        path = Path(self.root, TABLE)
        if path.is_file():
            return read_table(path)
        return table_of([(name, voc_color(i)) for i, name in enumerate(VOC_NAMES)], TABLE)

    def entries(self, split: str) -> Iterator[tuple[str, str, str | None]]:
        """Yield the name of each image without suffix, where it is listed, and a problem if any.

        Names of maps are used where no file lists any.
        """
        listed = self.splits[split]
        if listed is None:
            folder = OBJECT_MAPS if self.task == "instance" else CLASS_MAPS
            found, _ = files_by_stem(os.path.join(self.root, folder), (".png",))
            yield from ((stem, f"{folder}/{name}", None) for stem, name in sorted(found.items()))
            return
        source = os.path.relpath(listed, self.root)
        try:
            lines = read_text(listed, "names of images").splitlines()
        except DatasetError as error:
            yield "", source, str(error)
            return
        seen: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            name, where = line.strip().strip('"'), f"{source}, line {number}"
            if not name:
                continue
            if (first := seen.setdefault(name, number)) != number:
                yield name, where, f"{name!r:.200} is in line {first} too"
            elif "\0" in name or os.path.isabs(name) or ".." in Path(name).parts:
                yield name, where, f"{name!r:.200} is not the name of an image"
            else:
                yield name, where, None


@dataclass(frozen=True)
class VocSource(_VocFolder, InstanceSource):
    """Objects of a folder in VOC's format."""

    name: ClassVar[str] = "voc"

    def read(self, split: str) -> Reading:
        """See `InstanceSource.read`."""
        table = self.table
        kept = [i for i, name in enumerate(table.names) if name.lower() not in BACKGROUND]
        reading = Reading(
            f"Pascal VOC maps in {self.root}, {split}",
            self.root,
            self.image_root(split),
            [table.names[i] for i in kept],
        )
        label_of = {own: label for label, own in enumerate(kept)}
        images, _ = files_by_stem(reading.image_root, IMAGE_SUFFIXES)
        listed: dict[str, str] = {}
        for name, where, problem in self.entries(split):
            if problem is None and name not in images:
                problem = f"{IMAGES} has no image {name!r:.200}"
            if problem is None:
                listed[name] = where
            else:
                reading.error("listed image cannot be used", problem, where)
        records = reading.add_images(images[name] for name in sorted(listed))
        names = [name for name in sorted(listed) if images[name] in records]

        def read_maps(name: str) -> dict[str, np.ndarray | str]:
            return {
                f"{CLASS_MAPS}/{name}.png": self._read(CLASS_MAPS, name, table),
                f"{OBJECT_MAPS}/{name}.png": self._read(OBJECT_MAPS, name, table),
            }

        for name, maps in zip(names, map_files(read_maps, names, "Reading maps"), strict=True):
            image = records[images[name]]
            sound = []
            for source, found in maps.items():
                if isinstance(found, str):
                    reading.error("map cannot be read", found, source)
                elif problem := size_problem("the map", found.shape, image):
                    reading.error("map of another size", problem, source)
                else:
                    sound.append(found)
            if len(sound) == 2:
                _add_objects(sound[0], sound[1], name, image, table, label_of, reading)
        return reading

    def _read(self, folder: str, name: str, table: ColorTable) -> np.ndarray | str:
        """Return a map, or why it cannot be used."""
        path = os.path.join(self.root, folder, f"{name}.png")
        try:
            return read_classes(path, table) if folder == CLASS_MAPS else read_objects(path)
        except DatasetError as error:
            return str(error)


def _add_objects(
    classes: np.ndarray,
    objects: np.ndarray,
    name: str,
    image: Mapping[str, Any],
    table: ColorTable,
    label_of: Mapping[int, int],
    reading: Reading,
) -> None:
    """Add the objects of an image, and its void pixels as crowd regions."""
    from scipy import ndimage  # takes longer than all other formats

    source = f"{OBJECT_MAPS}/{name}.png"
    for number, box in enumerate(ndimage.find_objects(np.maximum(objects, 0)), start=1):
        if box is None:
            continue
        where = f"{source}, object {number}"
        part = objects[box] == number
        area = int(part.sum())
        values, counts = count_values(classes[box][part])
        areas = {int(v): int(c) for v, c in zip(values, counts, strict=True) if int(v) in label_of}
        if not areas:
            named = [table.names[v] if 0 <= v < len(table.names) else "void" for v in values]
            detail = f"its {area} pixels are {', '.join(named[:3])} in {CLASS_MAPS}/{name}.png"
            reading.error("object without a class", detail, where)
            continue
        best = max(areas, key=lambda value: areas[value])
        if areas[best] < area / 2:
            shares = ", ".join(f"{table.names[v]} {areas[v]}" for v in areas)
            detail = f"of its {area} pixels, most have another class or none: {shares}"
            reading.error("object of several classes", detail, where)
            continue
        mask = np.zeros(objects.shape, dtype=np.uint8, order="F")
        mask[box] = part
        reading.add_object(image, label_of[best], encode_mask(mask), where)
    is_class = np.zeros(len(table.names) + 1, dtype=bool)  # the last is for -1
    is_class[list(label_of)] = True
    lost = is_class[classes] & (objects == 0)
    if lost.any():
        y, x = (int(v) for v in np.argwhere(lost)[0])
        detail = f"{int(lost.sum())} pixels, such as x {x}, y {y}; they become void"
        reading.warning("class without an object", detail, f"{CLASS_MAPS}/{name}.png")
    void = (classes == -1) & (objects <= 0) | lost
    if void.any():
        reading.add_ignored(image, encode_mask(void), f"{CLASS_MAPS}/{name}.png, void")


def read_classes(path: str, table: ColorTable) -> np.ndarray:
    """Read a map of classes.

    Returns:
        (H, W) int32, the numbers of classes, and -1 where there is none.

    Raises:
        DatasetError: the map cannot be read or has a class that is not in the table.
    """
    if _mode(path) in ("RGB", "RGBA"):
        codes = read_codes(path)
        labels = table.look_up(codes)
        labels[codes == code_of(VOID_COLOR)] = -1
        if (labels == -2).any():
            code = int(codes[labels == -2][0])
            x, y = first_of_color(codes, code)
            raise DatasetError(
                f"{path}: the colour {color_of(code)} at x {x}, y {y} is not one of a class; "
                f"{TABLE} lists the colours"
            )
        return labels
    labels = read_label_map(path).astype(np.int32)
    labels[labels == VOID] = -1
    if (labels >= len(table.names)).any() or (labels < -1).any():
        wrong = (labels >= len(table.names)) | (labels < -1)
        y, x = np.argwhere(wrong)[0]
        raise DatasetError(
            f"{path}: class {labels[y, x]} at x {x}, y {y} does not exist: there are "
            f"{len(table.names)}, 0 to {len(table.names) - 1}; {TABLE} lists others"
        )
    return labels


def read_objects(path: str) -> np.ndarray:
    """Read a map of objects.

    Returns:
        (H, W) int32, the numbers of objects, 0 for background, and -1 for void.

    Raises:
        DatasetError: the map cannot be read.
    """
    if _mode(path) in ("RGB", "RGBA"):
        codes = read_codes(path)
        numbers = {0: 0, code_of(VOID_COLOR): -1}
        numbers |= {code_of(voc_color(i)): i for i in range(1, 255)}
        for code in counts_of(codes):
            numbers.setdefault(code, len(numbers))
        own = np.array(sorted(numbers), dtype=np.int64)
        values = np.array([numbers[code] for code in sorted(numbers)], dtype=np.int32)
        return values[np.searchsorted(own, codes)]
    objects = read_label_map(path).astype(np.int32)
    objects[objects == VOID] = -1
    return objects


def _mode(path: str) -> str:
    with open_image(path, DatasetError) as image:
        return image.mode


@dataclass(frozen=True)
class VocMaps(_VocFolder, MapSource):
    """Label maps of a folder in VOC's format."""

    name: ClassVar[str] = "voc"

    def class_names(self) -> list[str]:
        """See `MapSource.class_names`."""
        return list(self.table.names)

    def pairs(self, split: str) -> Iterator[MapPair]:
        """See `MapSource.pairs`."""
        images, _ = files_by_stem(self.image_root(split), IMAGE_SUFFIXES)
        for name, where, problem in self.entries(split):
            if problem is None and name not in images:
                problem = f"{IMAGES} has no image {name!r:.200}"
            path = os.path.join(self.root, CLASS_MAPS, f"{name}.png")
            yield MapPair(images.get(name, name), path, where, problem)

    def decode(self, path: str) -> np.ndarray:
        """See `MapSource.decode`."""
        return read_classes(path, self.table)


# --- Recognising ---


def recognise(root: Path) -> list[Source]:
    """Return the annotations of a folder in VOC's format: objects, and label maps."""
    places = [root, *sorted(root.glob("VOC[0-9]*")), *sorted(root.glob("VOCdevkit/VOC[0-9]*"))]
    for place in places:
        if (place / IMAGES).is_dir() and (place / CLASS_MAPS).is_dir():
            splits = _splits(place)
            found: list[Source] = [VocMaps(str(place), splits)]
            if (place / OBJECT_MAPS).is_dir():
                found.insert(0, VocSource(str(place), splits))
            return found
    return []


def _splits(root: Path) -> dict[str, str | None]:
    folder = root / LISTS
    found: dict[str, str | None] = {}
    for split, names in (("train", TRAIN), ("val", VAL)):
        path = next((folder / f"{n}.txt" for n in names if (folder / f"{n}.txt").is_file()), None)
        if path is not None:
            found[split] = str(path)
    if "train" in found:
        return found
    others = [folder / "trainval.txt", folder / "default.txt", *sorted(folder.glob("*.txt"))]
    whole = next((path for path in others if path.is_file()), None)
    return {WHOLE: None if whole is None else str(whole)}
