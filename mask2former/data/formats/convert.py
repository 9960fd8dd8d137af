"""Converting a folder of a user's own data to another format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from mask2former_runtime.files import moved_at_the_end, read_json, remove_abandoned
from mask2former_runtime.image import IMAGE_SUFFIXES

from ...structures import Classes
from ..errors import DatasetError
from ..files import files_by_stem
from ..label_maps import LABEL_SUFFIXES, read_label_map, read_panoptic_png
from ..own_data import InstanceData, OwnData, PanopticData, SemanticData, check_own_data
from .reading import BACKGROUND, Reading, encode_mask
from .source import WHOLE
from .writers import coco, labelme, maps, masks, voc, yolo
from .writers.maps import SplitMaps
from .writers.objects import SplitContent, Target, mask_of

_OF_OBJECTS: Mapping[str, Callable[[Sequence[SplitContent], Target], None]] = {
    "coco": coco.write,
    "coco-panoptic": maps.write_panoptic,
    "yolo": yolo.write,
    "labelme": labelme.write,
    "voc": voc.write,
    "masks": masks.write,
}
_OF_MAPS: Mapping[str, Callable[[Sequence[SplitMaps], Target], None]] = {
    "label-maps": maps.write_label_maps,
    "color-maps": maps.write_color_maps,
}


def convert_data(
    data: Mapping[str, OwnData], folder: Path, to: str, *, pixels: bool | None = None
) -> list[str]:
    """Check the data and write it in another format.

    Objects become label maps with a class "background"; of those that overlap, the smaller is on
    top, and crowd regions are labels of no class. Of label maps, each connected region of a class
    becomes an object, and the background none; of panoptic data, each segment.

    Args:
        data: the data by split: "train", "val" or `WHOLE`.
        folder: the new folder.
        to: a key of `FORMATS` of ``mask2former.formats``.
        pixels: see `check_own_data`.

    Returns:
        What the format cannot hold and was left out, in words.

    Raises:
        DatasetError: the data has errors, or the format cannot hold it, or the folder exists.
            After any error, nothing that was written is left.
    """
    unfinished = remove_abandoned(folder)
    if unfinished:
        raise DatasetError(
            f"{folder} holds {unfinished[0].name}, to which another run is writing or which a "
            "killed one left: wait until that run ends, or delete it"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} exists already: give the name of a new folder")
    reports = check_own_data(data.get("train") or data.get(WHOLE), data.get("val"), pixels=pixels)
    parts = [
        (split, part, replace(reports[0].classes, ignore_label=report.classes.ignore_label))
        for (split, part), report in zip(data.items(), reports, strict=True)
    ]
    with moved_at_the_end(folder) as new:
        target = Target(new)
        if to in _OF_OBJECTS:
            _OF_OBJECTS[to]([_objects(*part) for part in parts], target)
        else:
            _OF_MAPS[to]([_maps(*part) for part in parts], target)
    return target.notes()


# --- Objects ---


def _objects(split: str, data: OwnData, classes: Classes) -> SplitContent:
    """Return the objects of a split, with the categories of the training set."""
    if isinstance(data, InstanceData):  # of another format, as the check has rewritten it
        content = read_json(data.json_file, DatasetError)
    elif isinstance(data, PanopticData):
        content = _segments_as_objects(data)
    else:
        content = _regions_as_objects(data, split, classes)
    if not isinstance(data, SemanticData):
        content = {**content, "categories": classes.to_categories()}
    return SplitContent(split, content, data.image_root)


def _segments_as_objects(data: PanopticData) -> dict[str, Any]:
    """Return each segment as an object."""
    content = read_json(data.json_file, DatasetError)
    annotations: list[dict[str, Any]] = []
    for record in content["annotations"]:
        ids = read_panoptic_png(os.path.join(data.panoptic_root, record["file_name"]))
        for segment in record["segments_info"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": segment["category_id"],
                    "iscrowd": segment.get("iscrowd", 0),
                    "segmentation": encode_mask(ids == segment["id"]),
                }
            )
    return {**content, "annotations": annotations}


def _regions_as_objects(data: SemanticData, split: str, classes: Classes) -> dict[str, Any]:
    """Return each connected region of a class as an object, and pixels without one as crowds."""
    kept = [i for i, name in enumerate(classes.names) if name.lower() not in BACKGROUND]
    reading = Reading(data.label_root, "", data.image_root, [classes.names[i] for i in kept])
    for name, labels in _read_maps(data, classes):
        image = reading.add_images([name])[name]
        for number, label in enumerate(kept):
            regions, count = ndimage.label(labels == label, structure=np.ones((3, 3)))
            for region in range(1, count + 1):
                reading.add_object(image, number, encode_mask(regions == region), name)
        if (labels < 0).any():
            reading.add_ignored(image, encode_mask(labels < 0), name)
    return reading.content


# --- Label maps ---


def _maps(split: str, data: OwnData, classes: Classes) -> SplitMaps:
    if isinstance(data, SemanticData):
        return SplitMaps(split, classes.names, data.image_root, lambda: _read_maps(data, classes))
    things = _objects(split, data, classes)
    has_background = isinstance(data, InstanceData)
    names = [*(["background"] if has_background else []), *things.names]
    if len(set(names)) < len(names):
        names[0] = "no object"
    return SplitMaps(split, names, data.image_root, lambda: _painted(things, int(has_background)))


def _painted(split: SplitContent, first: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each image with the classes of its pixels.

    Args:
        split: the objects.
        first: label of the first class: 1 if there is a background, or else 0 and pixels of no
            object have no class.
    """
    for image, objects in split.images():
        labels = np.full((image["height"], image["width"]), first - 1, dtype=np.int32)
        drawn = [(mask_of(a, image), -1 if a.get("iscrowd") else label + first)
                 for label, a in objects]  # fmt: skip
        for mask, label in sorted(drawn, key=lambda pair: (pair[1] >= 0, -int(pair[0].sum()))):
            labels[mask] = label
        yield image["file_name"], labels


def _read_maps(data: SemanticData, classes: Classes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each image with its label map, -1 for no class."""
    images, _ = files_by_stem(data.image_root, IMAGE_SUFFIXES)
    label_files, _ = files_by_stem(data.label_root, LABEL_SUFFIXES)
    for stem, name in sorted(images.items()):
        labels = read_label_map(os.path.join(data.label_root, label_files[stem])).astype(np.int32)
        labels[labels == classes.ignore_label] = -1
        yield name, labels
