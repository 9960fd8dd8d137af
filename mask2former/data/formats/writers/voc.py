"""Writing Pascal VOC segmentation; see `formats.voc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import DatasetError
from ..reading import BACKGROUND
from ..voc import CLASS_MAPS, IMAGES, LISTS, OBJECT_MAPS, TABLE, VOID, VOID_COLOR, voc_color
from .names import NO_OBJECT, require_writable, table_problem, table_text
from .objects import Annotation, SplitContent, Target, mask_of

_MOST = 254  # classes, and objects of one byte


def write(splits: Sequence[SplitContent], target: Target) -> None:
    """Write images, maps of classes and objects, lists of names and ``labelmap.txt``.

    Of objects that overlap, the smaller is on top. Crowd regions become void.

    Raises:
        DatasetError: there are more than 254 classes, or the name of one cannot be written.
    """
    names = splits[0].names
    require_writable(names, "voc", _problem)
    if len(names) > _MOST:
        raise DatasetError(f"{len(names)} classes, and Pascal VOC's maps have at most {_MOST}")
    places = _places(splits)
    for split in splits:
        listed = []
        for image, objects in split.images():
            copied = target.copy_image(split.image_root, image["file_name"], places[split.split])
            listed.append(str(copied.relative_to(IMAGES).with_suffix("")))
            classes, numbers = _paint(image, objects, target)
            for folder, pixels in ((CLASS_MAPS, classes), (OBJECT_MAPS, numbers)):
                _save(target.file_for(copied, IMAGES, folder, ".png"), pixels)
        list_name = {"all": "default"}.get(split.split, split.split)
        path = target.file(LISTS, f"{list_name}.txt")
        path.write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
    entries = [(name, voc_color(number)) for number, name in enumerate(["background", *names])]
    target.file(TABLE).write_text(table_text(entries), encoding="utf-8")


def _problem(name: str) -> str | None:
    return NO_OBJECT if name.lower() in BACKGROUND else table_problem(name)


def _places(splits: Sequence[SplitContent]) -> dict[str, str]:
    """Return the folder of images of each split: folders of their own where names are the same."""
    names = [[Path(i["file_name"]).stem for i in split.content["images"]] for split in splits]
    both = len(names) == 2 and set(names[0]) & set(names[1])
    return {split.split: f"{IMAGES}/{split.split}" if both else IMAGES for split in splits}


def _paint(
    image: Mapping[str, Any],
    objects: Sequence[tuple[int, Annotation]],
    target: Target,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (H, W) maps of classes and of objects."""
    size = image["height"], image["width"]
    classes, numbers = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint16)
    crowds = [a for _, a in objects if a.get("iscrowd")]
    for annotation in crowds:
        mask = mask_of(annotation, image)
        classes[mask] = numbers[mask] = VOID
    drawn = [(mask_of(a, image), label + 1) for label, a in objects if not a.get("iscrowd")]
    drawn.sort(key=lambda pair: -int(pair[0].sum()))
    for number, (mask, label) in enumerate(drawn, start=1):
        classes[mask] = label
        numbers[mask] = number if number < VOID else number + 1
    lost = len(drawn) - len(set(np.unique(numbers).tolist()) - {0, VOID})
    if lost:
        target.lost["hidden object"] += lost
    return classes, numbers


def _save(path: Path, pixels: np.ndarray) -> None:
    """Write a map with VOC's palette, or with 16 bits if it does not fit."""
    if pixels.max(initial=0) > VOID:
        Image.fromarray(pixels).save(path)
        return
    picture = Image.fromarray(pixels.astype(np.uint8), mode="P")
    palette = [value for i in range(VOID) for value in voc_color(i)]
    picture.putpalette([*palette, *VOID_COLOR])
    picture.save(path)
