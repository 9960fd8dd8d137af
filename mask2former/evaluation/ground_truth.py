"""Ground truth of registered data sets, one image at a time and only when it is asked for.

Panoptic ground truth also is semantic and instance ground truth: the functions here derive them.

Shape letters: H, W image height and width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from ..data.errors import DatasetError
from ..data.label_maps import read_panoptic_png
from ..data.segment_labels import Segment
from .panoptic_quality import Category


@dataclass(frozen=True)
class CategoryIds:
    """Between the contiguous ids of a model's classes and the ids of a data set.

    Attributes:
        things: contiguous id -> id in the data set, of things.
        stuff: likewise of stuff, and perhaps of things, too.
    """

    things: Mapping[int, int]
    stuff: Mapping[int, int]

    @classmethod
    def of(cls, metadata: Metadata) -> CategoryIds:
        """Read ``{thing,stuff}_dataset_id_to_contiguous_id``; without them ids stay as they are."""
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        stuff = metadata.get("stuff_dataset_id_to_contiguous_id")
        if things is None and stuff is None:
            indices = range(len(metadata.get("stuff_classes") or ()))
            return cls({}, {index: index for index in indices})
        return cls(
            {index: dataset_id for dataset_id, index in (things or {}).items()},
            {index: dataset_id for dataset_id, index in (stuff or {}).items()},
        )

    def dataset_id(self, segment: Segment) -> int:
        """Return the data set's id of the class of a predicted segment.

        As in Detectron2, ``isthing`` decides where things and stuff are counted separately, and
        without it ``category_id`` already is the data set's.

        Raises:
            ValueError: there is no such class.
        """
        isthing, index = segment.get("isthing"), segment["category_id"]
        if isthing is None:
            return index
        ids = self.things if isthing and self.things else self.stuff
        if index not in ids:
            kind = "thing" if isthing else "stuff"
            raise ValueError(
                f"the model predicted {kind} of class {index}, but the {kind} classes of the data "
                f"set are {sorted(ids)}; was it trained on other classes?"
            )
        return ids[index]


class PanopticTruth:
    """Segments and PNG files of panoptic ground truth, by image id.

    Attributes:
        source: the file or data set it comes from, for messages.
        categories: id in the data set -> name and whether it is a thing.
        header: what a results file repeats of the ground truth: ``images``, ``categories`` etc.
    """

    def __init__(
        self,
        source: str,
        categories: Mapping[int, Category],
        images: Mapping[Hashable, tuple[str, str, Sequence[Segment]]] | None,
        header: Mapping[str, Any],
    ):
        """
        Args:
            source: see above.
            categories: see above.
            images: image id -> path of its PNG, the file name that a results file gives it, and
                segments with ``id``, ``category_id`` (the data set's) and ``iscrowd``. None if
                there is no ground truth, as for test sets.
            header: see above.
        """
        self.source = source
        self.categories = dict(categories)
        self.header = dict(header)
        self._images = None if images is None else dict(images)

    @classmethod
    def from_json(cls, panoptic_json: str, panoptic_root: str) -> PanopticTruth:
        """Read a file of COCO's panoptic format, whose PNG files are in `panoptic_root`.

        Raises:
            DatasetError: it is missing, or not of that format.
        """
        content = _read_json(panoptic_json)
        try:
            categories = {
                c["id"]: Category(c["name"], bool(c["isthing"])) for c in content["categories"]
            }
            images = None
            if "annotations" in content:
                images = {
                    a["image_id"]: (
                        os.path.join(panoptic_root, a["file_name"]),
                        a["file_name"],
                        a["segments_info"],
                    )
                    for a in content["annotations"]
                }
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{panoptic_json} is not in COCO's panoptic format: {error!r} is missing"
            ) from error
        header = {key: value for key, value in content.items() if key != "annotations"}
        return cls(panoptic_json, categories, images, header)

    @classmethod
    def of_dataset(cls, dataset_name: str) -> PanopticTruth:
        """Ground truth of a registered data set.

        It is that of ``panoptic_json`` and ``panoptic_root`` in its metadata or, without them, that
        of its dataset dicts (``pan_seg_file_name``, ``segments_info``).

        Raises:
            DatasetError: it has neither.
        """
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("panoptic_json") and metadata.get("panoptic_root"):
            return cls.from_json(metadata.panoptic_json, metadata.panoptic_root)
        records = list(panoptic_records(dataset_name))
        if not records:
            raise DatasetError(
                f"data set {dataset_name!r} has no panoptic ground truth: neither panoptic_json "
                "and panoptic_root in its metadata, nor dataset dicts with pan_seg_file_name and "
                "segments_info"
            )
        return _from_records(dataset_name, records)

    @property
    def annotated(self) -> bool:
        """Whether there are segments; of test sets there are not."""
        return self._images is not None

    @property
    def image_ids(self) -> Set[Hashable]:
        """The images with ground truth."""
        return (self._images or {}).keys()

    def segments(self, image_id: Hashable) -> Sequence[Segment]:
        """Return ``id``, ``category_id`` and ``iscrowd`` of the segments of an image."""
        assert self._images is not None
        return self._images[image_id][2]

    def path(self, image_id: Hashable) -> str:
        """Return the path of the PNG of an image."""
        assert self._images is not None
        return self._images[image_id][0]

    def read(self, image_id: Hashable) -> np.ndarray:
        """Return the (H, W) int32 segment ids of an image.

        Raises:
            DatasetError: the PNG cannot be read.
        """
        return read_panoptic_png(self.path(image_id))

    def file_name(self, image_id: Hashable) -> str | None:
        """Return the name of the image's PNG within its folder, or None if that is unknown."""
        return None if self._images is None else self._images[image_id][1]


def _from_records(dataset_name: str, records: Sequence[Mapping[str, Any]]) -> PanopticTruth:
    metadata = MetadataCatalog.get(dataset_name)
    ids = CategoryIds.of(metadata)
    dataset_ids = {**ids.stuff, **ids.things}
    things = set(ids.things) or {
        segment["category_id"]
        for record in records
        for segment in record["segments_info"]
        if segment.get("isthing")
    }
    names = metadata.get("stuff_classes") or metadata.get("thing_classes")
    categories = {
        dataset_id: Category(names[index], index in things)
        for index, dataset_id in sorted(dataset_ids.items())
    }
    root = os.path.commonpath([os.path.dirname(r["pan_seg_file_name"]) for r in records])
    images, listed = {}, []
    for record in records:
        segments = [
            {**segment, "category_id": dataset_ids[segment["category_id"]]}
            for segment in record["segments_info"]
        ]
        image_id, png = record["image_id"], record["pan_seg_file_name"]
        images[image_id] = (png, os.path.relpath(png, root or None), segments)
        size = {key: record[key] for key in ("height", "width") if key in record}
        listed.append({"id": image_id, "file_name": os.path.basename(record["file_name"]), **size})
    header = {
        "images": listed,
        "categories": [
            {"id": i, "name": category.name, "isthing": int(category.isthing)}
            for i, category in categories.items()
        ],
    }
    return PanopticTruth(f"data set {dataset_name!r}", categories, images, header)


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read panoptic annotations from {path}: {error}") from error


def panoptic_records(dataset_name: str) -> Iterator[dict[str, Any]]:
    """Yield the dataset dicts that have panoptic ground truth."""
    for record in DatasetCatalog.get(dataset_name):
        if "pan_seg_file_name" in record and "segments_info" in record:
            yield record


def instance_annotations(
    segment_ids: np.ndarray, segments: Sequence[Segment], image_id: Hashable
) -> list[dict[str, Any]]:
    """Return COCO annotations, without ``id``, of those of `segments` that have pixels.

    Args:
        segment_ids: (H, W).
        segments: ``id``, ``category_id``, ``iscrowd``: things.
        image_id: what the annotations' ``image_id`` shall be.
    """
    rles = [hotcoco.mask.encode(segment_ids == segment["id"]) for segment in segments]
    if not rles:
        return []
    boxes, areas = hotcoco.mask.toBbox(rles).tolist(), hotcoco.mask.area(rles).tolist()
    return [
        {
            "image_id": image_id,
            "category_id": segment["category_id"],
            "iscrowd": int(segment.get("iscrowd", 0)),
            "area": area,
            "bbox": box,
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
        }
        for segment, rle, box, area in zip(segments, rles, boxes, areas, strict=True)
        if area
    ]
