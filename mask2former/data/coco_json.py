"""Register COCO instance JSON files with Detectron2, the user's own ones after a check."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils import comm

from .coco_check import check_coco_json
from .errors import DatasetError
from .report import Report

__all__ = ["check_coco_json", "register_coco_json", "register_custom_datasets"]

Source = tuple[str, str]  # JSON file, image folder


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
    """
    if categories is None:
        with open(json_file, encoding="utf-8") as f:
            categories = {c["id"]: c["name"] for c in json.load(f)["categories"]}
    contiguous_ids = {category_id: i for i, category_id in enumerate(sorted(categories))}
    DatasetCatalog.register(name, lambda: _load(json_file, image_root, contiguous_ids))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=[categories[i] for i in contiguous_ids],
        thing_dataset_id_to_contiguous_id=contiguous_ids,
    )


def _load(
    json_file: str, image_root: str, contiguous_ids: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Load dataset dicts with contiguous category ids.

    Left to itself Detectron2 would number the categories of this very file: others than those of
    the training set where a validation file lists fewer.
    """
    dataset_dicts = load_coco_json(json_file, image_root, extra_annotation_keys=["id"])
    for record in dataset_dicts:
        for annotation in record["annotations"]:
            category_id = annotation["category_id"]
            if category_id not in contiguous_ids:
                raise DatasetError(
                    f"{json_file}: annotation id {annotation['id']} of image id "
                    f"{record['image_id']} has category_id {category_id}; registered are "
                    f"{sorted(contiguous_ids)}."
                )
            annotation["category_id"] = contiguous_ids[category_id]
    return dataset_dicts


def register_custom_datasets(
    train: Source | None, val: Source, categories: dict[int, str] | None = None
) -> tuple[str | None, str, list[str]]:
    """Check and register a user's own training and validation set.

    Calling it again with the same files is harmless.

    Args:
        train: COCO instance annotations and folder of the training images; None to evaluate only.
        val: the same for validation.
        categories: id to name, of a model that is evaluated only; by default those of ``val``.

    Returns:
        Names of the training set (None without one) and of the validation set, and the class names
        in the order of the contiguous ids.

    Raises:
        DatasetError: something is wrong; the message lists everything that is.
    """
    reports = [check_coco_json(*val, evaluated=True)]
    if train is not None:
        reports.insert(0, check_coco_json(*train, evaluated=False))
        # All classes of the training set: a validation set may lack some.
        categories = reports[0].categories
    if categories and reports[-1].categories:
        _compare_categories(categories, reports[-1])
    texts = [str(report) for report in reports if report.problems]
    num_errors = sum(report.num_errors for report in reports)
    if num_errors:
        errors = "1 error" if num_errors == 1 else f"{num_errors} errors"
        heading = f"the data cannot be used as it is: {errors}"
        raise DatasetError("\n".join([heading, *texts]))
    # Printed: Detectron2 sets up logging from the config, which needs the names returned here.
    if comm.is_main_process():
        print("\n".join([*texts, *(report.summary() for report in reports)]))

    categories = categories or reports[-1].categories
    train_name = None if train is None else _register_by_path("train", train, categories)
    val_name = _register_by_path("val", val, categories)
    return train_name, val_name, [categories[i] for i in sorted(categories)]


def _register_by_path(split: str, source: Source, categories: dict[int, str]) -> str:
    """Register under a name that the paths determine; return it."""
    key = "\n".join(os.path.abspath(path) for path in source)
    name = f"custom_{split}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_json(name, *source, categories=categories)
    return name


def _compare_categories(trained_categories: dict[int, str], val: Report) -> None:
    """Add to `val` what would make its classes other ones than those that are trained."""
    for category_id, name in val.categories.items():
        trained = trained_categories.get(category_id)
        if trained is None:
            others = [i for i, other in trained_categories.items() if other == name]
            detail = f"{name!r} is id {category_id} here"
            detail += f" and id {others[0]} there" if others else " and is not there at all"
            val.add("category differs from the training set", True, detail)
        elif trained != name:
            detail = f"id {category_id} is {name!r} here and {trained!r} there"
            val.add("category differs from the training set", True, detail)
    missing = [n for i, n in sorted(trained_categories.items()) if i not in val.categories]
    if missing:
        val.add("class that validation lacks", False, ", ".join(missing))
