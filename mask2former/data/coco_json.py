"""Register COCO instance JSON files with Detectron2."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json


def register_coco_json(
    name: str, json_file: str, image_root: str, *, categories: Mapping[int, str]
) -> None:
    """Register a COCO instance data set under `name`.

    Unlike `detectron2.data.datasets.register_coco_instances` the class names are known before the
    file is read, and annotations keep their ``id``, so that a wrong one can be named.

    Args:
        name: name for ``cfg.DATASETS``.
        json_file: COCO instance annotations; read when the data set is used.
        image_root: folder that ``file_name`` of the images is relative to.
        categories: category id -> class name. Ids may have gaps; classes are numbered in the
            order of their ids, as Detectron2 does.
    """
    ids = sorted(categories)
    DatasetCatalog.register(
        name, lambda: load_coco_json(json_file, image_root, name, extra_annotation_keys=["id"])
    )
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=[categories[i] for i in ids],
        thing_dataset_id_to_contiguous_id={category_id: i for i, category_id in enumerate(ids)},
    )
