"""LabelMe: a JSON file per image, with a list of shapes.

Polygons, rectangles, circles and masks are objects; shapes of one label with the same ``group_id``
are parts of one object. Lines and points have no area and are left out with a warning. The label
``__ignore__`` marks a region that nobody annotated: it becomes a crowd region. An image without a
JSON file has no objects. Classes are in the order of their names, or of ``labels.txt``.

The format has no holes and no ids, but masks, which are written where an object has holes.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar

import numpy as np
import pycocotools.mask as mask_util

from mask2former_runtime.files import is_special, read_json
from mask2former_runtime.image import ImageReadError, decoding

from ...utils.schema import shown
from ..checks.semantic_folders import read_class_names
from ..coco_format import is_file_name, is_number, is_text
from ..errors import DatasetError
from ..files import walk_files
from ..segmentation import is_whole_number, to_rle
from .reading import MOST_CLASSES, Reading, encode_mask, images_by_stem
from .source import InstanceSource, by_split

IGNORE = "__ignore__"
BACKGROUND = "_background_"
_CLASS_FILES = ("labels.txt", "classes.txt")
_WITHOUT_AREA = ("point", "points", "line", "linestrip")
# Folders of a split that may hold the JSON files, beside that of the images.
_PLACES = ("", "labels", "annotations", "json", "jsons")
_START = 1 << 16  # bytes of a file that show what it is
_MOST_MASK = 1 << 28  # pixels
_CIRCLE_POINTS = 64


@dataclass(frozen=True)
class LabelMeSource(InstanceSource):
    """A folder of LabelMe's files; a split is the folder of images and that of JSON files."""

    name: ClassVar[str] = "labelme"

    def places(self, split: str) -> list[str]:
        """Return the folders."""
        return list(dict.fromkeys(self.splits[split]))

    def image_root(self, split: str) -> str:
        """Return the folder of images."""
        return self.splits[split][0]

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The names of the classes: of ``labels.txt``, or else all labels that occur.

        Raises:
            DatasetError: ``labels.txt`` cannot be used.
        """
        for name in _CLASS_FILES:
            path = os.path.join(self.root, name)
            if os.path.isfile(path):
                names = read_class_names(path)
                return [name for name in names if name not in (IGNORE, BACKGROUND)]
        found: set[str] = set()
        for _, folder in self.splits.values():
            for name in _json_files(folder):
                try:
                    content = read_json(os.path.join(folder, name), DatasetError)
                except DatasetError:
                    continue  # the reader reports it
                shapes = content.get("shapes") if isinstance(content, dict) else None
                for shape in shapes if isinstance(shapes, list) else ():
                    label = shape.get("label") if isinstance(shape, dict) else None
                    if is_text(label):
                        found.add(label)
        return sorted(found - {IGNORE, BACKGROUND})[:MOST_CLASSES]

    def read(self, split: str) -> Reading:
        """See `InstanceSource.read`."""
        images, folder = self.splits[split]
        names = self.class_names
        reading = Reading(f"LabelMe files in {folder}", self.root, images, names)
        stems = images_by_stem(reading, images)
        by_name = {name: name for name in stems.values()}
        records = reading.add_images(sorted(stems.values()))
        owners: dict[str, str] = {}
        for name in _json_files(folder):
            source = reading.short(os.path.join(folder, name))
            try:
                content = read_json(os.path.join(folder, name), DatasetError)
                image_name = _image_name(content, name, stems, by_name)
            except DatasetError as error:
                reading.error("file is not one of LabelMe's", str(error), source)
                continue
            if (first := owners.setdefault(image_name, source)) != source:
                reading.error("image annotated twice", f"{first} has the same image", source)
            elif image_name in records:
                _read_shapes(content, records[image_name], names, reading, source)
        return reading


def _json_files(folder: str) -> list[str]:
    return sorted(name for name in walk_files(folder) if name.lower().endswith(".json"))


def _image_name(
    content: Any, name: str, stems: Mapping[str, str], by_name: Mapping[str, str]
) -> str:
    """Return the name of the image of a JSON file, relative to the folder of images.

    Raises:
        DatasetError: the file is none of LabelMe's, or its image is missing.
    """
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DatasetError(f"{name}: an object with a list 'shapes' is needed")
    path = content.get("imagePath")
    if is_file_name(path):
        relative = os.path.normpath(os.path.join(os.path.dirname(name), path.replace("\\", "/")))
        base = os.path.join(os.path.dirname(name), PureWindowsPath(path).name)
        for candidate in (relative, base, PureWindowsPath(path).name):
            if candidate in by_name:
                return candidate
    if (stem := os.path.splitext(name)[0]) in stems:
        return stems[stem]
    hint = "; the file embeds it (imageData): save it" if content.get("imageData") else ""
    raise DatasetError(f"its image {shown(path)} is not there{hint}")


def _read_shapes(
    content: Mapping[str, Any],
    image: Mapping[str, Any],
    names: list[str],
    reading: Reading,
    source: str,
) -> None:
    size = content.get("imageHeight"), content.get("imageWidth")
    real = image["height"], image["width"]
    if None not in size and size != real:
        detail = f"imageHeight and imageWidth are {shown(list(size))}, the image has {list(real)}"
        swapped = "; width and height look swapped" if size == real[::-1] else ""
        reading.error("image size differs", detail + swapped, source)
        return
    label_of = {name: number for number, name in enumerate(names)}
    # Parts of an object: label and group, or the number of a shape without one
    objects: dict[Any, list[tuple[int, Any]]] = {}
    for number, shape in enumerate(content["shapes"]):
        where = f"{source}, shape {number}"
        try:
            if not isinstance(shape, dict):
                raise ValueError(f"it is {shown(shape)}; an object is needed")
            label = shape.get("label")
            if not is_text(label):
                raise ValueError(f"its label is {shown(label)}; a text is needed")
            if label == BACKGROUND:
                continue
            if label != IGNORE and label not in label_of:
                raise ValueError(f"its label {shown(label)} is not in {_CLASS_FILES[0]}")
            group = shape.get("group_id")
            if not (group is None or is_whole_number(group) or isinstance(group, str)):
                raise ValueError(f"its group_id is {shown(group)}; a whole number is needed")
            if shape.get("shape_type") in _WITHOUT_AREA:
                kind, detail = "shape without an area", f"it is a {shape['shape_type']}"
                reading.warning(kind, detail, where)
                continue
            part = _segmentation(shape, *real)
        except ValueError as error:
            reading.error("shape cannot be used", str(error), where)
            continue
        key = ("shape", number) if group is None else ("group", label, group)
        objects.setdefault(key, []).append((number, part))
    ignored = []
    for key, parts in objects.items():
        label = content["shapes"][parts[0][0]]["label"]
        numbers = ", ".join(str(number) for number, _ in parts[:5])
        where = f"{source}, {'shape' if len(parts) == 1 else 'shapes'} {numbers}"
        if key[0] == "group":
            where += f" (group_id {shown(key[2])})"
        segmentation = _joined([part for _, part in parts], real)
        if label == IGNORE:
            ignored.append((segmentation, where))
        else:
            reading.add_object(image, label_of[label], segmentation, where)
    for segmentation, where in ignored:
        reading.add_ignored(image, segmentation, where)


def _joined(parts: list[Any], size: tuple[int, int]) -> Any:
    """Return one segmentation of several: polygons, or an RLE if a part is one."""
    if all(isinstance(part, list) for part in parts):
        return [polygon for part in parts for polygon in part]
    if len(parts) == 1:
        return parts[0]
    try:
        merged = mask_util.merge([to_rle(part, size) for part in parts])
    except ValueError:
        return parts[0]  # polygons, which the check names
    return {"size": list(merged["size"]), "counts": merged["counts"].decode()}


def _segmentation(shape: Mapping[str, Any], height: int, width: int) -> Any:
    """Return the polygon or RLE of a shape.

    Raises:
        ValueError: the shape is of a wrong form.
    """
    kind = shape.get("shape_type") or "polygon"
    points = shape.get("points")
    if not isinstance(points, list) or not all(
        isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points
    ):
        raise ValueError(f"its points are {shown(points)}; a list of [x, y] is needed")
    wanted = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}.get(str(kind))
    if wanted is None:
        raise ValueError(f"its shape_type is {shown(kind)}; polygon, rectangle, circle and mask "
                         "are known")  # fmt: skip
    if len(points) < wanted or (kind != "polygon" and len(points) not in (wanted, 4)):
        least = "at least " if kind == "polygon" else ""
        raise ValueError(f"a {kind} of {len(points)} points; {least}{wanted} are needed")
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        return [[float(value) for point in points for value in point]]
    (x0, y0), (x1, y1) = points[:2]
    if kind == "rectangle":
        return [[float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]]
    if kind == "circle":
        angles = np.linspace(0, 2 * np.pi, _CIRCLE_POINTS, endpoint=False)
        radius = float(np.hypot(x1 - x0, y1 - y0))
        ring = np.stack([x0 + radius * np.cos(angles), y0 + radius * np.sin(angles)], axis=1)
        return [ring.reshape(-1).tolist()]
    return encode_mask(_mask(shape.get("mask"), points, height, width))


def _mask(text: Any, points: Any, height: int, width: int) -> np.ndarray:
    """Decode the PNG of a mask, which lies in the box of two points."""
    if not isinstance(text, str):
        raise ValueError("a mask without 'mask', its picture as base64")
    try:
        content = base64.b64decode(text, validate=True)
        with decoding(lambda: io.BytesIO(content), "its mask", most_pixels=_MOST_MASK) as picture:
            part = np.array(picture.convert("L")) > 0
    except (binascii.Error, ImageReadError, UnicodeEncodeError, ValueError) as error:
        raise ValueError(f"its mask cannot be decoded: {error}") from None
    x, y = (round(min(p[i] for p in points)) for i in (0, 1))
    h, w = part.shape
    if x < 0 or y < 0 or x + w > width or y + h > height:
        raise ValueError(f"its mask of {w}x{h} pixels at {[x, y]} reaches beyond the image")
    mask = np.zeros((height, width), dtype=bool)
    mask[y : y + h, x : x + w] = part
    return mask


# --- Recognising ---


def recognise(root: Path) -> LabelMeSource | None:
    """Return the annotations of a folder of LabelMe's files, or None."""
    splits = by_split(lambda name: _folders(root, name))
    return LabelMeSource(str(root), splits) if splits else None


def _folders(root: Path, split: str) -> tuple[str, str] | None:
    """Return the folders of images and JSON files of a split, if LabelMe's files are there."""
    pairs: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for place in _PLACES:
        pairs += [((split, "images"), (split, place)), (("images", split), (place, split))]
        pairs.append(((split,), (place, split)))
    for images, texts in pairs:
        image_folder, folder = root.joinpath(*images), root.joinpath(*texts)
        if image_folder.is_dir() and folder.is_dir() and is_labelme(folder):
            return str(image_folder), str(folder)
    return None


def is_labelme(folder: Path) -> bool:
    """Return whether a JSON file in a folder, not in its subfolders, is one of LabelMe's."""
    for number, path in enumerate(sorted(folder.glob("*.json"))):
        if number == 5:
            break
        try:
            if is_special(path):
                continue
            with path.open("rb") as file:
                start = file.read(_START)
                file.seek(max(0, path.stat().st_size - _START))
                end = file.read()
        except OSError:
            continue
        if b'"shapes"' in start + end and b'"imagePath"' in start + end:
            return True
    return False
