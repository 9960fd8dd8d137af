"""Ground truth of registered data sets, read one image at a time and only on demand.

Panoptic ground truth also serves as instance ground truth; `instance_annotations` derives it.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import hotcoco
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from ..data.coco_format import classes_of, keep_images, read_coco
from ..data.errors import DatasetError
from ..data.label_maps import read_panoptic_png
from ..data.metadata import ONLY_IMAGES
from ..data.segment_labels import Segment
from ..structures import Classes

_FIELDS = {
    "categories": "id name isthing?",
    "annotations?": "image_id file_name segments_info",
    "segments_info": "id category_id iscrowd?",
}


def panoptic_classes(metadata: Metadata) -> tuple[Classes, Classes]:
    """Return the classes of things and of stuff that the metadata of a data set describes.

    Both are the same `Classes`, unless the data set numbers things and stuff separately, as
    Detectron2's "separated" sets do.

    Raises:
        DatasetError: the metadata does not name classes.
    """
    classes = Classes.from_metadata(metadata)
    if classes is None:
        raise DatasetError(f"data set {metadata.name!r} names no classes in its metadata")
    thing_index = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    if all(classes.index.get(category_id) == i for category_id, i in thing_index.items()):
        return classes, classes
    things = {
        key: metadata.get(key) for key in ("thing_classes", "thing_dataset_id_to_contiguous_id")
    }
    return Classes.from_metadata(things) or classes, classes


class PanopticTruth:
    """Segments and PNG files of panoptic ground truth, by image id.

    Args:
        source: the file or data set that the ground truth comes from, for messages.
        classes: the classes of the ground truth, with its ids.
        images: image id -> path of its PNG, the file name that a results file gives the PNG, and
            segments with ``id``, ``category_id`` (the data set's) and ``iscrowd``. None without
            ground truth, as for test sets.
        header: the part of the ground truth that a results file repeats: ``images``,
            ``categories`` etc.
    """

    def __init__(
        self,
        source: str,
        classes: Classes,
        images: Mapping[Hashable, tuple[str, str, Sequence[Segment]]] | None,
        header: Mapping[str, Any],
    ):
        self.source = source
        self.classes = classes
        self.header = dict(header)
        self._images = None if images is None else dict(images)

    @classmethod
    def from_json(
        cls, panoptic_json: str, panoptic_root: str, only: Collection[str] | None = None
    ) -> PanopticTruth:
        """Read a file in COCO's panoptic format, whose PNG files are in `panoptic_root`.

        Args:
            panoptic_json: the file.
            panoptic_root: folder of the PNG files.
            only: the ``file_name`` of the images to take; None takes all.

        Raises:
            DatasetError: the file is missing or has another format.
        """
        content = keep_images(read_coco(panoptic_json, _FIELDS), only)
        images = None
        if "annotations" in content:
            images = {
                a["image_id"]: (
                    os.path.join(panoptic_root, a["file_name"]), a["file_name"], a["segments_info"]
                )
                for a in content["annotations"]
            }  # fmt: skip
            if len(images) < len(content["annotations"]):
                raise DatasetError(f"{panoptic_json}: an image has two annotations")
        header = {key: value for key, value in content.items() if key != "annotations"}
        return cls(panoptic_json, classes_of(content["categories"]), images, header)

    @classmethod
    def of_dataset(cls, dataset_name: str) -> PanopticTruth:
        """Read the ground truth of a registered data set.

        It comes from ``panoptic_json`` and ``panoptic_root`` in the metadata or, without them, from
        the dataset dicts (``pan_seg_file_name``, ``segments_info``).

        Raises:
            DatasetError: the data set has neither.
        """
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("panoptic_json") and metadata.get("panoptic_root"):
            only = metadata.get(ONLY_IMAGES)
            return cls.from_json(metadata.panoptic_json, metadata.panoptic_root, only)
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
        """Whether there are segments; test sets do not have any."""
        return self._images is not None

    @property
    def image_ids(self) -> Set[Hashable]:
        """The images with ground truth."""
        return (self._images or {}).keys()

    def segments(self, image_id: Hashable) -> Sequence[Segment]:
        """Return the segments of an image, with ``id``, ``category_id`` and ``iscrowd``."""
        assert self._images is not None
        return self._images[image_id][2]

    def path(self, image_id: Hashable) -> str:
        """Return the path of the PNG of an image."""
        assert self._images is not None
        return self._images[image_id][0]

    def read(self, image_id: Hashable) -> np.ndarray:
        """Read the (H, W) int32 segment ids of an image.

        Raises:
            DatasetError: the PNG cannot be read.
        """
        return read_panoptic_png(self.path(image_id))

    def file_name(self, image_id: Hashable) -> str | None:
        """Return the name of the image's PNG within its folder, or None if it is not known."""
        return None if self._images is None else self._images[image_id][1]


def _from_records(dataset_name: str, records: Sequence[Mapping[str, Any]]) -> PanopticTruth:
    _, classes = panoptic_classes(MetadataCatalog.get(dataset_name))
    if classes.things is None:
        things = {
            segment["category_id"]
            for record in records
            for segment in record["segments_info"]
            if segment.get("isthing")
        }
        classes = replace(classes, things=frozenset(things))
    root = os.path.commonpath([os.path.dirname(r["pan_seg_file_name"]) for r in records])
    images, listed = {}, []
    for record in records:
        segments = [
            {**segment, "category_id": classes.ids[segment["category_id"]]}
            for segment in record["segments_info"]
        ]
        image_id, png = record["image_id"], record["pan_seg_file_name"]
        images[image_id] = (png, os.path.relpath(png, root or None), segments)
        size = {key: record[key] for key in ("height", "width") if key in record}
        listed.append({"id": image_id, "file_name": os.path.basename(record["file_name"]), **size})
    header = {"images": listed, "categories": classes.to_categories()}
    return PanopticTruth(f"data set {dataset_name!r}", classes, images, header)


def panoptic_records(dataset_name: str) -> Iterator[dict[str, Any]]:
    """Yield the dataset dicts that have panoptic ground truth."""
    for record in DatasetCatalog.get(dataset_name):
        if "pan_seg_file_name" in record and "segments_info" in record:
            yield record


def instance_annotations(
    segment_ids: np.ndarray, segments: Sequence[Segment], image_id: Hashable
) -> list[dict[str, Any]]:
    """Return COCO annotations, without ``id``, of the segments that have pixels.

    Args:
        segment_ids: (H, W).
        segments: ``id``, ``category_id`` and ``iscrowd`` of things.
        image_id: the ``image_id`` of the annotations.
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
