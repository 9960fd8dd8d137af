"""Instance annotations from panoptic ground truth, for data sets without instance annotations."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.label_maps import read_panoptic_png
from .ground_truth import instance_annotations, panoptic_records

logger = logging.getLogger(__name__)


class PanopticInstances:
    """The things of a panoptic data set as COCO instance annotations.

    Args:
        dataset_name: a registered data set; this reads `thing_dataset_id_to_contiguous_id` of its
            metadata.
        records: its dataset dicts, with `pan_seg_file_name` and `segments_info`.

    Attributes:
        source: the name of the annotations in messages.
    """

    def __init__(self, dataset_name: str, records: Sequence[Mapping[str, Any]]):
        self.source = f"panoptic data set {dataset_name!r}"
        to_index = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
        if to_index is None:  # the ids are contiguous
            things = {
                segment["category_id"]
                for record in records
                for segment in record["segments_info"]
                if segment["isthing"]
            }
            to_index = {index: index for index in things}
        self._to_id = {index: dataset_id for dataset_id, index in to_index.items()}
        self._records = {record["image_id"]: record for record in records}

    @classmethod
    def instead_of_json(cls, dataset_name: str) -> PanopticInstances | None:
        """Return the instances of a data set with panoptic ground truth, or None if not needed.

        They are not needed if a `json_file` exists. If the metadata names one that does not exist,
        a warning says so.
        """
        json_file = MetadataCatalog.get(dataset_name).get("json_file")
        if (json_file and os.path.exists(json_file)) or dataset_name not in DatasetCatalog:
            return None
        if json_file and "://" in json_file:
            return None
        records = list(panoptic_records(dataset_name))
        if not records:
            return None
        missing = f" {json_file} does not exist." if json_file else ""
        logger.log(
            logging.WARNING if missing else logging.INFO,
            f"The instances to evaluate {dataset_name!r} on are the things of its panoptic "
            f"ground truth.{missing}",
        )
        return cls(dataset_name, records)

    def dataset(self, annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a data set in COCO's format that has these annotations and all images."""
        images = [
            {"id": image_id, "file_name": record["file_name"]}
            | {key: record[key] for key in ("height", "width") if key in record}
            for image_id, record in self._records.items()
        ]
        return {
            "images": images,
            "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
            "categories": [{"id": i, "name": str(i)} for i in sorted(self._to_id.values())],
        }

    def annotations(self, image_id: Hashable) -> list[dict[str, Any]]:
        """Return the annotations of an image, with the category ids of the data set.

        Raises:
            DatasetError: the PNG cannot be read.
        """
        record = self._records[image_id]
        things = [
            {**segment, "category_id": self._to_id[segment["category_id"]]}
            for segment in record["segments_info"]
            if segment["category_id"] in self._to_id
        ]
        return instance_annotations(
            read_panoptic_png(record["pan_seg_file_name"]), things, image_id
        )
