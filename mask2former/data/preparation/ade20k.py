"""ADE20K with 150 classes: label maps, instances and panoptic segments.

Read in ``ADEChallengeData2016/``, for the splits training and validation:

- ``images/*/ADE_*.jpg``
- ``annotations/*/ADE_*.png``: 0 for other things, 1 to 150 for the classes
- ``annotations_instance/*/ADE_*.png``: R is the class among the 100 of the instance task, from 1, G
  the object, unique in its image; both are 0 where there is no object

Image ids are those of the published image list for the instance task: they count from 0, training
before validation. Category ids are those of the semantic classes, from 0.

Shapes:
    H, W: height and width.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from mask2former_runtime.text import some_of

from ..checks.coco_instances import check_coco_json
from ..checks.coco_panoptic import check_panoptic_json
from ..checks.image_files import image_header
from ..checks.report import Report
from ..checks.semantic_folders import check_semantic_folders
from ..datasets import read_classes
from ..errors import DatasetError
from ..files import missing_files, require
from ..label_maps import check_size, read_label_map, read_panoptic_png
from .job import Job
from .segments import panoptic_of, regions_of

FOLDER = "ADEChallengeData2016"
IGNORE_LABEL = 255

_LONG_SPLITS = {"train": "training", "val": "validation"}
# Image id of file number 1 of each split.
_FIRST_IDS = {"train": 0, "val": 20210}
_NAME = re.compile(r"ADE_(train|val)_(\d{8})")
_SOURCES = {
    "images": "ADEChallengeData2016.zip of the MIT Scene Parsing Benchmark contains it",
    "annotations": "ADEChallengeData2016.zip of the MIT Scene Parsing Benchmark contains it",
    "annotations_instance": (
        "annotations_instance.tar of the instance segmentation task of the MIT Scene Parsing "
        "Benchmark contains it; unpack it beside annotations/"
    ),
}


class _Ade20k(Job):
    """One split of ADE20K.

    Args:
        root: folder of ``ADEChallengeData2016``.
        split: "train" or "val".
    """

    task: str
    inputs: tuple[str, ...]
    """Folders of label maps to read."""

    def __init__(self, root: str | os.PathLike[str], split: str):
        self.folder = Path(root) / FOLDER
        self.split = split
        self.title = f"ADE20K {self.task}, {_LONG_SPLITS[split]}"
        self.classes: list[dict[str, Any]] = read_classes("ade20k")

    def part(self, folder: str) -> Path:
        """Return the folder of this split within `folder`, which holds images or label maps."""
        return self.folder / folder / _LONG_SPLITS[self.split]

    def image(self, name: str) -> Path:
        """Return the path of the image `name`."""
        return self.part("images") / f"{name}.jpg"

    def names(self) -> list[str]:
        """Return the names of the images, sorted. See `Job.names`."""
        for folder in ("images", *self.inputs):
            require(str(self.part(folder)), f"folder of {self.title}", f"{_SOURCES[folder]}.")
        images = sorted(name for name in os.listdir(self.part("images")) if name.endswith(".jpg"))
        names = [name.removesuffix(".jpg") for name in images]
        if not names:
            raise DatasetError(f"{self.part('images')}: there are no images (*.jpg) in it.")
        strange = [name for name in names if not self._is_name(name)]
        if strange:
            raise DatasetError(
                f"{self.part('images')}: {some_of(strange)}: not names of images of this split, "
                f"ADE_{self.split}_ and a number of 8 digits, from which image ids are made."
            )
        for folder in self.inputs:
            missing = missing_files(str(self.part(folder) / f"{name}.png") for name in names)
            if missing:
                raise DatasetError(
                    f"{len(missing)} of {len(names)} images have no label map: {some_of(missing)}. "
                    f"{_SOURCES[folder]}."
                )
        return names

    def _is_name(self, name: str) -> bool:
        match = _NAME.fullmatch(name)
        return match is not None and match[1] == self.split

    def image_id(self, name: str) -> int:
        """Return the id of the image `name`."""
        return _FIRST_IDS[self.split] + int(name[-8:]) - 1

    def image_record(self, name: str) -> dict[str, Any]:
        """Return the entry of the image `name` in JSON files."""
        height, width = image_header(self.image(name)).upright
        return {
            "id": self.image_id(name),
            "file_name": f"{name}.jpg",
            "width": width,
            "height": height,
        }

    def read_labels(self, name: str) -> np.ndarray:
        """Read the (H, W) uint8 map of semantic classes, from 1; 0 is for no class."""
        path = str(self.part("annotations") / f"{name}.png")
        labels = read_label_map(path)
        self._check_size(path, labels, name)
        if labels.size and labels.max() > len(self.classes):
            raise DatasetError(
                f"{path} has the label {labels.max()}; those of ADE20K with "
                f"{len(self.classes)} classes are 0 to {len(self.classes)}."
            )
        return labels.astype(np.uint8)

    def read_objects(self, name: str) -> tuple[np.ndarray, dict[int, int]]:
        """Read the (H, W) map of objects, 0 for none, and the category id of each object."""
        path = str(self.part("annotations_instance") / f"{name}.png")
        pixels = read_panoptic_png(path)
        self._check_size(path, pixels, name)
        numbers = pixels >> 8 & 255
        things = [category["id"] for category in self.classes if category["isthing"]]
        classes: dict[int, list[int]] = {}
        for pair in np.flatnonzero(np.bincount((pixels & 0xFFFF).reshape(-1))).tolist():
            classes.setdefault(pair >> 8, []).append(pair & 255)
        classes.pop(0, None)
        for number, of_object in classes.items():
            if len(of_object) > 1 or not 1 <= of_object[0] <= len(things):
                raise DatasetError(
                    f"{path}: the pixels of object {number} (G) have the classes "
                    f"{some_of(of_object)} (R); an object has one class, 1 to {len(things)}."
                )
        return numbers, {number: things[found[0] - 1] for number, found in classes.items()}

    def _check_size(self, path: str, pixels: np.ndarray, name: str) -> None:
        check_size(
            path, pixels.shape, str(self.image(name)), image_header(self.image(name)).upright
        )

    @abstractmethod
    def check(self) -> Report:
        """See `Job.check`."""


class Ade20kSemantic(_Ade20k):
    """``annotations_detectron2/``: label maps with classes 0 to 149, and 255 for no class."""

    task = "semantic"
    inputs = ("annotations",)

    def __init__(self, root: str | os.PathLike[str], split: str):
        super().__init__(root, split)
        self.output_folder = self.part("annotations_detectron2")

    def convert(self, name: str) -> None:
        """See `Job.convert`."""
        # In uint8, 0 - 1 is 255.
        self.save_png(name, self.read_labels(name) - np.uint8(1))

    def check(self) -> Report:
        """See `Job.check`."""
        assert self.output_folder is not None
        names = [category["name"] for category in self.classes]
        return check_semantic_folders(
            str(self.part("images")), str(self.output_folder), names, ignore_label=IGNORE_LABEL
        )


class Ade20kInstance(_Ade20k):
    """``ade20k_instance_{train,val}.json``: COCO instances with RLE masks."""

    task = "instance"
    inputs = ("annotations_instance",)

    def __init__(self, root: str | os.PathLike[str], split: str):
        super().__init__(root, split)
        self.output_json = self.folder / f"ade20k_instance_{split}.json"

    def convert(self, name: str) -> dict[str, Any]:
        """Return the entries of the image and of its objects. See `Job.convert`."""
        numbers, categories = self.read_objects(name)
        columns = np.asfortranarray(numbers)  # RLE counts down the columns
        annotations = []
        for number, region in regions_of(numbers).items():
            rle = mask_util.encode((columns == number).view(np.uint8))
            annotations.append(
                {
                    "category_id": categories[number],
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                    **region,
                    "iscrowd": 0,
                }
            )
        return {"image": self.image_record(name), "annotations": annotations}

    def content(self, names: Sequence[str], parts: Sequence[Any]) -> dict[str, Any]:
        """See `Job.content`."""
        annotations = [
            {"image_id": part["image"]["id"], **annotation}
            for part in parts
            for annotation in part["annotations"]
        ]
        return {
            "images": [part["image"] for part in parts],
            # Ids count from 1: COCO's evaluation takes id 0 for "no object".
            "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
            "categories": [
                {"id": c["id"], "name": c.get("instance_name", c["name"])}
                for c in self.classes
                if c["isthing"]
            ],
        }

    def check(self) -> Report:
        """See `Job.check`."""
        return check_coco_json(str(self.output_json), str(self.part("images")))


class Ade20kPanoptic(_Ade20k):
    """``ade20k_panoptic_{train,val}.json`` and a folder of that name.

    Stuff comes from the label map, one segment per class. Things are the objects, which lie above
    it. Pixels that the label map assigns to a thing but that belong to no object are void.
    """

    task = "panoptic"
    inputs = ("annotations", "annotations_instance")

    def __init__(self, root: str | os.PathLike[str], split: str):
        super().__init__(root, split)
        self.output_json = self.folder / f"ade20k_panoptic_{split}.json"
        self.output_folder = self.folder / f"ade20k_panoptic_{split}"

    def convert(self, name: str) -> dict[str, Any]:
        """Return the entries of the image and of its segments. See `Job.convert`."""
        labels = self.read_labels(name)
        objects, categories = self.read_objects(name)
        # 1 to 150 are stuff, larger numbers are objects.
        first = len(self.classes) + 1
        stuff = {i: c["id"] for i, c in enumerate(self.classes, start=1) if not c["isthing"]}
        number_of = np.zeros(first, dtype=np.int32)
        number_of[list(stuff)] = list(stuff)
        numbers = np.where(objects > 0, objects + first, number_of[labels])
        things = {first + number: category_id for number, category_id in categories.items()}
        pixels, segments = panoptic_of(numbers, {**stuff, **things})
        self.save_png(name, pixels)
        image = self.image_record(name)
        annotation = {
            "image_id": image["id"],
            "file_name": f"{name}.png",
            "segments_info": segments,
        }
        return {"image": image, "annotation": annotation}

    def content(self, names: Sequence[str], parts: Sequence[Any]) -> dict[str, Any]:
        """See `Job.content`."""
        keys = ("id", "name", "isthing", "color")
        return {
            "images": [part["image"] for part in parts],
            "annotations": [part["annotation"] for part in parts],
            "categories": [{key: category[key] for key in keys} for category in self.classes],
        }

    def check(self) -> Report:
        """See `Job.check`."""
        assert self.output_folder is not None
        return check_panoptic_json(
            str(self.output_json), str(self.part("images")), str(self.output_folder)
        )
