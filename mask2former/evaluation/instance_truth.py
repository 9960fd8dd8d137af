"""Instance annotations from panoptic ground truth, for data sets that have no others."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.label_maps import read_panoptic_png
from .ground_truth import instance_annotations, panoptic_records

_logger = logging.getLogger(__name__)


class PanopticInstances:
    """The things of a panoptic data set as COCO instance annotations.

    Attributes:
        source: what to call the annotations in messages.
    """

    def __init__(self, dataset_name: str, records: Sequence[Mapping[str, Any]]):
        """
        Args:
            dataset_name: a registered data set; `thing_dataset_id_to_contiguous_id` and
                `thing_classes` of its metadata are read.
            records: its dataset dicts, with `pan_seg_file_name` and `segments_info`.
        """
        self.source = f"panoptic data set {dataset_name!r}"
        to_index = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
        if to_index is None:  # ids are the contiguous ones
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
        """Return the instances of a data set that has panoptic ground truth, but no `json_file`.

        A `json_file` that is named but does not exist counts as none, and that is logged.
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
        _logger.warning(
            f"{dataset_name!r} is evaluated on instances that are the things of its panoptic "
            f"ground truth.{missing}"
        )
        return cls(dataset_name, records)

    def dataset(self, annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a data set in COCO's format with these annotations, of all or of some images."""
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
        """Return the annotations of an image, with category ids of the data set.

        Raises:
            DatasetError: its PNG cannot be read.
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
