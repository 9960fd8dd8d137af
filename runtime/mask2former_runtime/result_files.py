"""Files of results: COCO's formats for instances and panoptic segments, label maps for classes.

Maps are written one by one, each completely or not at all, and then the JSON file that lists them.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .classes import Classes
from .files import check_replaceable, write_atomically, write_json
from .maps import ids_to_rgb
from .prediction import Prediction, coco_file, coco_image
from .predictions import PanopticPrediction, SemanticPrediction
from .text import counted


class Results(ABC):
    """Collects the results for images and writes them to a file.

    Args:
        path: the JSON file.
        classes: names and ids.

    Raises:
        ValueError: `path` cannot be written.
        OSError: see `check_replaceable`.
    """

    def __init__(self, path: Path, classes: Classes):
        if path.is_dir():
            raise ValueError(f"--json {path} is a folder: name a file, such as {path / 'r.json'}")
        if str(path) == "-":
            raise ValueError("--json - is not stdout: name a file, such as r.json")
        check_replaceable(path)
        self.path = path
        self.classes = classes

    @abstractmethod
    def add(self, found: Prediction, image_id: int, file_name: str, map_name: str) -> None:
        """Add what a segmenter found in an image.

        Args:
            found: what a model found in the image.
            image_id: the id of the image.
            file_name: the path of the image.
            map_name: name of the PNG file for the image's map, if the format has maps.
        """

    def files(self, map_names: Sequence[str]) -> list[Path]:
        """Return the files that `add` and `write` write.

        Args:
            map_names: of all images.
        """
        return [self.path]

    @abstractmethod
    def content(self) -> Any:
        """Return what the JSON file holds."""

    @abstractmethod
    def count(self) -> str:
        """Return how much was added, in words."""

    def write(self) -> None:
        """Write the JSON file."""
        write_json(self.path, self.content())


class InstanceResults(Results):
    """A list of COCO results with `file_name`, and a complete COCO file.

    pycocotools' ``loadRes`` takes the list. The COCO file has the same name with the suffix
    ``.coco.json``, and holds the images, also those without objects, the categories and the
    results as annotations.
    """

    def __init__(self, path: Path, classes: Classes):
        super().__init__(path, classes)
        self._complete_path = path.with_suffix(".coco.json")
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []

    def files(self, map_names: Sequence[str]) -> list[Path]:
        """Return both files."""
        return [self.path, self._complete_path]

    def add(self, found: Prediction, image_id: int, file_name: str, map_name: str) -> None:
        """Add instances."""
        self._images.append(coco_image(found, image_id, file_name))
        self._results += [{**r, "file_name": file_name} for r in found.to_coco(image_id)]

    def content(self) -> list[dict[str, Any]]:
        """Return the results."""
        return self._results

    def write(self) -> None:
        """Write both files."""
        super().write()
        complete = coco_file(self._images, self._results, self.classes)
        write_json(self._complete_path, complete)

    def count(self) -> str:
        """Return the number of instances, in words."""
        return counted(len(self._results), "instance")


class MapResults(Results):
    """A JSON file that lists images, classes and one PNG file per image.

    The PNG files are in the folder named like the JSON file without its suffix.
    """

    def __init__(self, path: Path, classes: Classes):
        super().__init__(path, classes)
        self.folder = map_folder(path)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def files(self, map_names: Sequence[str]) -> list[Path]:
        """Return the JSON file and the maps."""
        return [self.path, *(self.folder / name for name in map_names)]

    def _write_map(self, pixels: np.ndarray, image_id: int, file_name: str, map_name: str) -> None:
        height, width = pixels.shape[:2]
        path = self.folder / map_name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels)
        write_atomically(path, lambda file: picture.save(file, "PNG", compress_level=4))
        self._images.append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width}
        )

    def content(self) -> dict[str, Any]:
        """Return the images, their maps and the classes."""
        return {
            "images": self._images,
            "annotations": self._annotations,
            "categories": self._categories(),
        }

    @abstractmethod
    def _categories(self) -> list[dict[str, Any]]: ...

    def _category(self, index: int, id_: int) -> dict[str, Any]:
        colors = self.classes.colors
        known = {} if colors is None else {"color": list(colors[index])}
        return {"id": id_, "name": self.classes.names[index], **known}

    def count(self) -> str:
        """Return the number of maps, in words."""
        return f"{counted(len(self._images), 'map')} in {self.folder}"


class PanopticResults(MapResults):
    """COCO's panoptic format: ids in the PNG files are R + 256 G + 65536 B, or 0 for no segment."""

    def __init__(self, path: Path, classes: Classes):
        super().__init__(path, classes)
        if len(classes.index) < len(classes):
            raise ValueError(
                "COCO's panoptic format needs the id of every class, but only those of things are "
                "known for this model: put a metadata.json with stuff_dataset_id_to_contiguous_id "
                "beside the weights"
            )
        self._things: set[int] = set(classes.things or ())

    def add(self, found: Prediction, image_id: int, file_name: str, map_name: str) -> None:
        """Add segments."""
        assert isinstance(found, PanopticPrediction)
        self._write_map(ids_to_rgb(found.segment_map), image_id, file_name, map_name)
        self._things.update(s["label"] for s in found.segments if s["isthing"])
        self._annotations.append(
            {
                "image_id": image_id,
                "file_name": map_name,
                "segments_info": segments_info(found.segments, self.classes),
            }
        )

    def _categories(self) -> list[dict[str, Any]]:
        return [
            {**self._category(i, id_), "isthing": int(i in self._things)}
            for i, id_ in enumerate(self.classes.ids)
        ]


class SemanticResults(MapResults):
    """Label maps: one channel of 8 bits, or of 16 bits for 256 classes or more; labels from 0."""

    def add(self, found: Prediction, image_id: int, file_name: str, map_name: str) -> None:
        """Add the classes of pixels."""
        assert isinstance(found, SemanticPrediction)
        # As in data sets, 255 (65535 in 16 bits) is reserved for unlabelled pixels.
        dtype = np.uint8 if len(self.classes.names) < 256 else np.uint16
        labels = found.filled(int(np.iinfo(dtype).max)).astype(dtype)
        self._write_map(labels, image_id, file_name, map_name)
        self._annotations.append({"image_id": image_id, "file_name": map_name})

    def _categories(self) -> list[dict[str, Any]]:
        return [
            {**self._category(i, i), "category_id": id_} for i, id_ in enumerate(self.classes.ids)
        ]


_RESULTS: dict[str, type[Results]] = {
    "instance": InstanceResults,
    "panoptic": PanopticResults,
    "semantic": SemanticResults,
}


def build_results(task: str, classes: Classes, path: Path) -> Results:
    """Build the collector of the results for a task, which writes the JSON file `path`."""
    return _RESULTS[task](path, classes)


def map_folder(path: Path) -> Path:
    """Return the folder of the maps that a JSON file lists.

    Raises:
        ValueError: the file has no suffix, so the folder would have the same name.
    """
    if not path.suffix:
        raise ValueError(
            f"--json {path}: name a file such as {path}.json, because maps go to the folder {path}"
        )
    return path.with_suffix("")


def check_result_paths(
    results: Results, map_names: Sequence[str], inputs: Sequence[Path], pictures: Sequence[Path]
) -> None:
    """Raise `ValueError` if a file of results would replace an input or a picture."""
    taken = {os.path.realpath(path): "a picture of --output" for path in pictures}
    taken |= {os.path.realpath(path): "an input" for path in inputs}
    for path in results.files(map_names):
        replaced = taken.get(os.path.realpath(path))
        if replaced is not None:
            raise ValueError(f"{path} would replace {replaced}: choose another --json")


def segments_info(segments: Sequence[Mapping[str, Any]], classes: Classes) -> list[dict[str, Any]]:
    """Return segments, in the form of `Prediction.segments`, as COCO's panoptic format has them."""
    return [
        {
            "id": segment["id"],
            "category_id": classes.ids[segment["label"]],
            "area": segment["area"],
            "bbox": _box(segment["box"]),
            "iscrowd": 0,
            **({} if segment["score"] is None else {"score": segment["score"]}),
        }
        for segment in segments
    ]


def _box(edges: Sequence[float]) -> list[int]:
    left, top, right, bottom = map(int, edges)
    return [left, top, right - left, bottom - top]
