"""Registering panoptic data sets in COCO's format: a JSON of segments, and a PNG of ids per image.

The id of a segment is R + 256 G + 65536 B of its pixels; 0 is void.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_runtime.text import some_of

from ...structures import Classes
from ..coco_format import classes_of, read_coco
from ..errors import DatasetError
from ..files import missing_files, require

logger = logging.getLogger(__name__)

_FIELDS = {
    "images": "id file_name height width",
    "annotations": "image_id file_name segments_info",
    "segments_info": "id category_id iscrowd?",
    "categories": "id name isthing",
}


def register_coco_panoptic(
    name: str,
    panoptic_json: str,
    panoptic_root: str,
    image_root: str,
    *,
    categories: Sequence[Mapping[str, Any]] | None = None,
    sem_seg_root: str | None = None,
    json_file: str | None = None,
    evaluator_type: str = "coco_panoptic_seg",
    ignore_label: int = 255,
    preparation: str = "",
    **metadata: Any,
) -> None:
    """Register a panoptic data set under `name`. Segments are read when it is loaded.

    Args:
        name: name for ``cfg.DATASETS``.
        panoptic_json: file with ``images``, ``annotations`` (with ``segments_info``) and
            ``categories``.
        panoptic_root: folder of the PNG files that ``annotations`` name.
        image_root: folder of the image files that ``images`` name.
        categories: id, name, isthing and perhaps color (RGB, 0..255) of each class, in the order
            of contiguous ids; by default those of `panoptic_json`, in the order of their ids.
        sem_seg_root: folder of the same ground truth as label maps of contiguous ids, if it
            exists. These PNG files have the same names as those in `panoptic_root`.
        json_file: COCO instance annotations of the same images, if they exist.
        evaluator_type: the kind of evaluator; see `mask2former.evaluation.build_evaluator`.
        ignore_label: label of pixels without a class in `sem_seg_root`.
        preparation: a sentence that says how to make the files, for messages about missing ones.
        metadata: further entries of the ``MetadataCatalog``; they take precedence.

    Raises:
        DatasetError: `categories` is not given, and the JSON cannot be read.
    """
    if categories is None:
        content = _read_json(panoptic_json, preparation)
        categories = sorted(content["categories"], key=lambda category: category["id"])
    classes = replace(classes_of(categories), ignore_label=ignore_label)
    DatasetCatalog.register(
        name,
        lambda: load_coco_panoptic(
            panoptic_json,
            panoptic_root,
            image_root,
            classes=classes,
            sem_seg_root=sem_seg_root,
            preparation=preparation,
        ),
    )
    known = {
        "panoptic_json": panoptic_json,
        "panoptic_root": panoptic_root,
        "image_root": image_root,
        "json_file": json_file,
        "evaluator_type": evaluator_type,
        "label_divisor": 1000,
        **classes.to_metadata("panoptic"),
    }
    if sem_seg_root is not None:
        known["sem_seg_root"] = sem_seg_root
    MetadataCatalog.get(name).set(**{**known, **metadata})


def load_coco_panoptic(
    panoptic_json: str,
    panoptic_root: str,
    image_root: str,
    *,
    classes: Classes,
    sem_seg_root: str | None = None,
    preparation: str = "",
) -> list[dict[str, Any]]:
    """Read the dataset dicts; for the arguments see `register_coco_panoptic`.

    If the folder `sem_seg_root` does not exist, the dicts have no ``sem_seg_file_name``, because
    the panoptic PNG files hold the same labels.

    Returns:
        Detectron2's dataset dicts in the order of ``annotations``, with file_name, height, width,
        image_id (as in the JSON), pan_seg_file_name, segments_info (with contiguous
        ``category_id`` and ``isthing`` as bool), and sem_seg_file_name if `sem_seg_root` exists.

    Raises:
        DatasetError: a file is missing, or the JSON contradicts itself; the message says where.
    """
    content = _read_json(panoptic_json, preparation)
    require(image_root, "folder of images", preparation)
    require(panoptic_root, "folder of panoptic PNG files", preparation)
    if sem_seg_root is not None and not os.path.isdir(sem_seg_root):
        logger.info(
            "The folder %s does not exist: semantic labels come from %s.",
            sem_seg_root,
            panoptic_root,
        )
        sem_seg_root = None
    images = {image["id"]: image for image in content["images"]}

    records: dict[Any, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        where = f"{panoptic_json}: image id {image_id!r}"
        if image_id not in images:
            raise DatasetError(f"{where} has an annotation, but is not in 'images'.")
        if image_id in records:
            raise DatasetError(f"{where} has two annotations.")
        image, png = images[image_id], annotation["file_name"]
        record = {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image_id,
            "pan_seg_file_name": os.path.join(panoptic_root, png),
            "segments_info": _segments(annotation["segments_info"], classes, where),
        }
        if sem_seg_root is not None:
            label_map = os.path.splitext(png)[0] + ".png"
            record["sem_seg_file_name"] = os.path.join(sem_seg_root, label_map)
        records[image_id] = record
    if not records:
        raise DatasetError(f"{panoptic_json}: there are no annotations.")
    without = [image["file_name"] for i, image in images.items() if i not in records]
    if without:
        raise DatasetError(
            f"{panoptic_json}: {len(without)} of {len(images)} images have no annotation: "
            f"{some_of(without)}. Remove them from 'images', or annotate them."
        )
    _check_files(list(records.values()), panoptic_json, preparation)
    return list(records.values())


def _segments(
    segments: Sequence[Mapping[str, Any]],
    classes: Classes,
    where: str,
) -> list[dict[str, Any]]:
    """Return the segments of one image with contiguous ids."""
    result = []
    for segment in segments:
        if segment["category_id"] not in classes.index:
            raise DatasetError(
                f"{where}: segment id {segment['id']} has category_id {segment['category_id']}; "
                f"registered are {sorted(classes.ids)}."
            )
        index = classes.index[segment["category_id"]]
        known = {"category_id": index, "isthing": classes.is_thing(index)}
        result.append({"iscrowd": 0, **segment, **known})
    return result


def _read_json(path: str, preparation: str) -> dict[str, Any]:
    require(path, "file of panoptic annotations", preparation)
    return read_coco(path, _FIELDS)


def _check_files(records: Sequence[Mapping[str, Any]], source: str, preparation: str) -> None:
    """Raise `DatasetError` if files of the dataset dicts are missing."""
    for key, what in (
        ("file_name", "images"),
        ("pan_seg_file_name", "panoptic PNG files"),
        ("sem_seg_file_name", "label maps"),
    ):
        missing = missing_files(record[key] for record in records if key in record)
        if missing:
            raise DatasetError(
                f"{len(missing)} of {len(records)} {what} that {source} names are missing: "
                f"{some_of(missing)}. {preparation}".strip()
            )
