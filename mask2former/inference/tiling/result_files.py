"""The results of a large image, written while they are joined: memory holds a part of them.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mask2former_runtime.classes import Classes
from mask2former_runtime.files import write_atomically, write_json
from mask2former_runtime.maps import boxes_of
from mask2former_runtime.prediction import coco_result
from mask2former_runtime.result_files import segments_info
from mask2former_runtime.rle import encode_parts
from mask2former_runtime.text import counted

from ...utils.size import Size
from .geojson import GeoJsonWriter
from .joining import JoinedObject
from .map_files import write_map
from .panoptic_map import PanopticMap
from .tiled import TileResults

_MAPS = {"panoptic": "segments", "semantic": "labels"}

Paint = Callable[[int, int, np.ndarray], None]
"""Takes the (row, column) of the first pixel of a part of the image, and what it shows there:
objects as numbers from 1, or classes."""


@dataclass
class LargeImage:
    """What the results of an image are called.

    Attributes:
        stem: path of the files without their suffixes.
        name: of the image.
        size: (H, W).
        georeference: see `Windows`.
    """

    stem: Path
    name: str
    size: Size
    georeference: dict[str, Any] | None = None
    image_id: int = 1
    labels_of_numbers: list[int] = field(default_factory=lambda: [-1])

    @property
    def json_file(self) -> Path:
        """The COCO file, or that which lists maps."""
        return self.stem.with_name(f"{self.stem.name}.json")

    @property
    def outlines(self) -> Path:
        """The file of the outlines of instances."""
        return self.stem.with_name(f"{self.stem.name}.geojson")

    def map_file(self, task: str) -> Path:
        """Return the file of the map of a task."""
        suffix = "png" if self.georeference is None else "tif"
        return self.stem.with_name(f"{self.stem.name}.{_MAPS[task]}.{suffix}")

    def files(self, task: str) -> list[Path]:
        """Return all files of the results of a task."""
        if task in _MAPS:
            return [self.json_file, self.map_file(task)]
        return [self.json_file, *([] if self.georeference is None else [self.outlines])]

    def head(self) -> dict[str, Any]:
        """Return the image as COCO's formats list it."""
        height, width = self.size
        return {"id": self.image_id, "file_name": self.name, "height": height, "width": width}


def write_results(results: TileResults, image: LargeImage, paint: Paint) -> str:
    """Write what the tiles of an image show, and return what was found, in words.

    Args:
        results: of all tiles.
        image: where the files go.
        paint: is shown all of the result, part by part.

    Raises:
        OSError: a file cannot be written.
    """
    task, classes = results.finder.task, results.finder.classes
    if task == "instance":
        return _write_instances(results.objects(), image, classes, paint)
    if task == "panoptic":
        return _write_segments(results.panoptic_map(), image, classes, paint)
    return _write_labels(results, image, classes, paint)


def _write_instances(
    objects: Iterator[JoinedObject], image: LargeImage, classes: Classes, paint: Paint
) -> str:
    """Write a COCO file, object by object, and outlines if the image has a place on the earth."""
    if image.georeference is None:
        return _write_coco(objects, image, classes, paint)

    def outlined(outlines: GeoJsonWriter) -> Iterator[JoinedObject]:
        for number, found in enumerate(objects, start=1):
            outlines.add(number, found)
            yield found

    with image.outlines.open("wb") as file:
        outlines = GeoJsonWriter(file, image.georeference, classes)
        words = _write_coco(outlined(outlines), image, classes, paint)
        outlines.close()
    return words


def _write_coco(
    objects: Iterator[JoinedObject], image: LargeImage, classes: Classes, paint: Paint
) -> str:
    count = 0

    def write(file: Any) -> None:
        nonlocal count
        head = json.dumps({"images": [image.head()], "categories": classes.to_categories()})
        file.write(f'{head[:-1]}, "annotations": ['.encode())
        for found in objects:
            count += 1
            file.write(("\n" if count == 1 else ",\n").encode())
            file.write(json.dumps({"id": count, **_record(found, image, classes)}).encode())
            image.labels_of_numbers.append(found.label)
            for place, mask in found.bands():
                paint(place.top, place.left, mask * np.int32(count))
        file.write(b"\n]}\n")

    write_atomically(image.json_file, write)
    return counted(count, "instance")


def _record(found: JoinedObject, image: LargeImage, classes: Classes) -> dict[str, Any]:
    top, left, bottom, right = found.region
    encoded = encode_parts((((p.top, p.left), mask) for p, mask in found.bands()), image.size)
    box = (left, top, right, bottom)
    score = float(np.float32(found.score))
    return coco_result(image.image_id, classes.ids[found.label], score, box, image.size, encoded)


def _write_segments(found: PanopticMap, image: LargeImage, classes: Classes, paint: Paint) -> str:
    """Write COCO's panoptic format: the map, and the segments that have pixels in it."""
    count = len(found.segments)
    areas = np.zeros(count + 1, np.int64)
    boxes = np.tile([image.size[1], image.size[0], 0, 0], (count + 1, 1))
    image.labels_of_numbers += [segment["category_id"] for segment in found.segments]

    def rows(first: int, last: int) -> np.ndarray:
        ids = found.rows(first, last)
        areas[:] += np.bincount(ids.reshape(-1), minlength=count + 1)
        present = np.unique(ids)
        seen = boxes_of(ids, present.tolist()) + np.array([0, first, 0, first])
        boxes[present, :2] = np.minimum(boxes[present, :2], seen[:, :2])
        boxes[present, 2:] = np.maximum(boxes[present, 2:], seen[:, 2:])
        paint(first, 0, ids)
        return ids

    path = image.map_file("panoptic")
    write_map(path, image.size, rows, ids=True, dtype=np.uint32, georeference=image.georeference)
    segments = [
        {
            "id": segment["id"],
            "label": segment["category_id"],
            "score": segment["score"],
            "area": int(areas[segment["id"]]),
            "box": boxes[segment["id"]],
            "isthing": segment["isthing"],
        }
        for segment in found.segments
        if areas[segment["id"]]
    ]
    entry = {
        "image_id": image.image_id,
        "file_name": path.name,
        "segments_info": segments_info(segments, classes),
    }
    content = {
        "images": [image.head()],
        "annotations": [entry],
        "categories": classes.to_categories(),
    }
    write_json(image.json_file, content)
    things = sum(segment["isthing"] for segment in segments)
    return f"{counted(things, 'thing')}, {len(segments) - things} stuff"


def _write_labels(results: TileResults, image: LargeImage, classes: Classes, paint: Paint) -> str:
    """Write the map of classes from 0, and the file that says what they mean."""
    areas = np.zeros(len(classes), np.int64)

    def rows(first: int, last: int) -> np.ndarray:
        labels = results.labels(first, last)
        areas[:] += np.bincount(labels.reshape(-1), minlength=len(classes))
        paint(first, 0, labels)
        return labels

    path = image.map_file("semantic")
    dtype = np.uint8 if len(classes) < 256 else np.uint16
    write_map(path, image.size, rows, ids=False, dtype=dtype, georeference=image.georeference)
    content = {
        "images": [image.head()],
        "annotations": [{"image_id": image.image_id, "file_name": path.name}],
        "categories": [
            {"id": i, "name": name, "category_id": id_}
            for i, (name, id_) in enumerate(zip(classes.names, classes.ids, strict=True))
        ],
    }
    write_json(image.json_file, content)
    largest = int(areas.argmax())
    share = f"{areas[largest] / areas.sum():.0%} {classes.names[largest]}"
    return f"{counted(int(np.count_nonzero(areas)), 'class', 'classes')}, {share}"
