"""Registering COCO instance JSON files with Detectron2."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ...structures import Classes
from ..coco_format import classes_of, read_coco
from ..errors import DatasetError
from ..segmentation import area_and_box, to_rle

_FIELDS = {
    "images": "id file_name height width",
    "annotations?": "id image_id category_id iscrowd? bbox? segmentation?",
}


def register_coco_json(
    name: str,
    json_file: str,
    image_root: str,
    *,
    categories: Mapping[int, str] | None = None,
) -> None:
    """Register a COCO instance data set under `name`.

    Unlike with `detectron2.data.datasets.register_coco_instances`, the class names are known before
    the data set is loaded, and annotations keep their ``id``, so that messages can name a bad one.

    Args:
        name: name for ``cfg.DATASETS``.
        json_file: COCO instance annotations.
        image_root: folder that ``file_name`` of the images is relative to.
        categories: category id -> class name, by default read from `json_file`. Ids may have gaps;
            classes are numbered in the order of their ids, as Detectron2 does.

    Raises:
        DatasetError: `categories` is not given, and the file cannot be read.
    """
    if categories is None:
        listed = read_coco(json_file, {"categories": "id name"})["categories"]
        categories = {record["id"]: record["name"] for record in listed}
    ids = sorted(categories)
    classes = Classes([categories[i] for i in ids], ids, frozenset(range(len(ids))))
    DatasetCatalog.register(name, lambda: load_coco_instances(json_file, image_root, classes))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        **classes.to_metadata("instance"),
    )


def load_coco_instances(
    json_file: str, image_root: str, classes: Classes | None = None
) -> list[dict[str, Any]]:
    """Load dataset dicts with contiguous category ids, in the order of image ids.

    Detectron2's loader would number the categories that this file lists. If a validation file lists
    fewer than the training file, a category would have two numbers. It also passes unchecked run
    lengths to pycocotools, which writes beyond its memory if they are wrong.

    Args:
        json_file: COCO instance annotations.
        image_root: folder that ``file_name`` of the images is relative to.
        classes: the classes, by default the file's.

    Raises:
        DatasetError: the file is not a COCO instance file, or has a category that is not one of
            `classes`.
    """
    fields = _FIELDS if classes is not None else {**_FIELDS, "categories": "id name"}
    content = read_coco(PathManager.get_local_path(json_file), fields)
    if classes is None:
        classes = classes_of(sorted(content["categories"], key=lambda record: record["id"]))
    images = {image["id"]: image for image in content["images"]}
    annotations: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    for annotation in content.get("annotations", ()):  # test sets do not have any
        image = images.get(annotation["image_id"])
        if image is None:
            continue
        if (loaded := _load_annotation(annotation, image, classes, json_file)) is not None:
            annotations[image["id"]].append(loaded)
    return [
        {
            "file_name": os.path.join(image_root, images[image_id]["file_name"]),
            "height": images[image_id]["height"],
            "width": images[image_id]["width"],
            "image_id": image_id,
            "annotations": annotations[image_id],
        }
        for image_id in sorted(images, key=lambda i: (isinstance(i, str), i))
    ]


def _load_annotation(
    annotation: dict[str, Any], image: dict[str, Any], classes: Classes, json_file: str
) -> dict[str, Any] | None:
    """Return an annotation of a dataset dict, or None if none of its polygons has three points."""
    name = f"{json_file}: annotation id {annotation['id']!r:.50} of image id {image['id']!r:.50}"
    if annotation["category_id"] not in classes.index:
        raise DatasetError(
            f"{name} has category_id {annotation['category_id']}; registered are "
            f"{sorted(classes.ids)}."
        )
    if annotation.get("ignore", 0) != 0:
        raise DatasetError(f"{name} has 'ignore', which is not supported; use iscrowd 1.")
    loaded: dict[str, Any] = {
        "bbox_mode": BoxMode.XYWH_ABS, "category_id": classes.index[annotation["category_id"]]
    }  # fmt: skip
    kept = ("id", "iscrowd", "bbox")
    loaded |= {key: annotation[key] for key in kept if annotation.get(key) is not None}
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return loaded
    if isinstance(segmentation, dict):
        try:  # compressed run lengths take less memory
            segmentation = to_rle(segmentation, (image["height"], image["width"]))
        except ValueError as error:
            raise DatasetError(f"{name}: {error}.") from error
    else:
        if not all(isinstance(polygon, list) for polygon in segmentation):
            raise DatasetError(f"{name}: polygons are not a list of lists.")
        segmentation = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
        if not segmentation:
            return None
    if "bbox" not in loaded:
        try:
            loaded["bbox"] = area_and_box(segmentation, (image["height"], image["width"]))[1]
        except ValueError as error:
            raise DatasetError(f"{name}: {error}.") from error
    return {**loaded, "segmentation": segmentation}
