"""Register COCO instance JSON files with Detectron2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ...structures import Classes
from ...utils.files import read_json
from ..errors import DatasetError


def register_coco_json(
    name: str,
    json_file: str,
    image_root: str,
    *,
    categories: Mapping[int, str] | None = None,
) -> None:
    """Register a COCO instance data set under `name`.

    Unlike `detectron2.data.datasets.register_coco_instances` the class names are known before the
    data set is loaded, and annotations keep their ``id``, so that a wrong one can be named.

    Args:
        name: name for ``cfg.DATASETS``.
        json_file: COCO instance annotations.
        image_root: folder that ``file_name`` of the images is relative to.
        categories: category id -> class name, by default read from `json_file`. Ids may have gaps;
            classes are numbered in the order of their ids, as Detectron2 does.

    Raises:
        DatasetError: `categories` is to be read from the file, and cannot be.
    """
    if categories is None:
        content = read_json(json_file, DatasetError)
        categories = {c["id"]: c["name"] for c in content["categories"]}
    ids = sorted(categories)
    classes = Classes([categories[i] for i in ids], ids, frozenset(range(len(ids))))
    DatasetCatalog.register(name, lambda: _load(json_file, image_root, classes))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        **classes.to_metadata("instance"),
    )


def _load(json_file: str, image_root: str, classes: Classes) -> list[dict[str, Any]]:
    """Load dataset dicts with contiguous category ids.

    Left to itself Detectron2 would number the categories of this very file: others than those of
    the training set where a validation file lists fewer.
    """
    dataset_dicts = load_coco_json(json_file, image_root, extra_annotation_keys=["id"])
    for record in dataset_dicts:
        for annotation in record["annotations"]:
            category_id = annotation["category_id"]
            if category_id not in classes.index:
                raise DatasetError(
                    f"{json_file}: annotation id {annotation['id']} of image id "
                    f"{record['image_id']} has category_id {category_id}; registered are "
                    f"{sorted(classes.ids)}."
                )
            annotation["category_id"] = classes.index[category_id]
    return dataset_dicts
