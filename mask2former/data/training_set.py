"""The images of ``DATASETS.TRAIN``: several data sets joined, after checks that they match."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import print_instances_class_histogram
from detectron2.data.datasets.coco import load_coco_json
from torch.utils.data import ConcatDataset, Dataset, IterableDataset

from ..tasks import TASKS, TaskName
from .datasets.coco_instances import load_coco_instances
from .errors import DatasetError
from .mapper import MAPPER_PRESETS

logger = logging.getLogger(__name__)


def load_training_set(
    names: Sequence[str], targets: TaskName | None, *, filter_empty: bool
) -> list[dict[str, Any]] | Dataset[Any]:
    """Load registered data sets and join them.

    Args:
        names: names in Detectron2's ``DatasetCatalog``, at least one.
        targets: what the mapper reads; None for a custom mapper, which may read anything.
        filter_empty: leave out images that have no instance or panoptic segment, apart from
            crowds. Label maps are not opened, so all images of semantic data sets stay.

    Returns:
        Dataset dicts; or, if a data set is a map-style ``torch.utils.data.Dataset`` and not a list,
        such a data set.

    Raises:
        ValueError: a name is not registered, or a data set is iterable.
        DatasetError: a data set is empty, lacks what `targets` need, or does not match the others.
    """
    for name in names:
        require_registered(name, "DATASETS.TRAIN")
    loaded = {name: load_dataset(name) for name in names}
    if any(isinstance(dataset, IterableDataset) for dataset in loaded.values()):
        raise ValueError("An iterable data set has no positions to resume from; use a list.")
    for name, dataset in loaded.items():
        if not len(dataset):
            raise DatasetError(f"The data set {name!r} is empty.")
    datasets = list(loaded.values())
    if any(isinstance(dataset, Dataset) for dataset in datasets):
        return datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)
    if targets is not None:
        for name, dataset in loaded.items():
            _require_field(name, dataset, targets)
        _require_same_classes(names, targets)
    records = [record for dataset in datasets for record in dataset]
    if filter_empty:
        records = _without_empty(records, targets, names)
    if targets == "instance" and MetadataCatalog.get(names[0]).get("thing_classes"):
        print_instances_class_histogram(records, MetadataCatalog.get(names[0]).thing_classes)
    return records


def load_dataset(name: str) -> Any:
    """Return what Detectron2's ``DatasetCatalog`` holds under a name.

    Files that Detectron2's own loader of COCO instances would read are checked first, because it
    passes unchecked run lengths to pycocotools.

    Raises:
        DatasetError: the file cannot be used.
    """
    metadata = MetadataCatalog.get(name)
    theirs = getattr(DatasetCatalog.data.get(name), "__module__", "") == load_coco_json.__module__
    if theirs and "minival" not in name:  # those of 2014 use some annotation ids twice
        load_coco_instances(metadata.json_file, metadata.image_root)
    return DatasetCatalog.get(name)


def require_registered(name: str, key: str) -> None:
    """Check that Detectron2's ``DatasetCatalog`` has a data set.

    Args:
        name: of the data set.
        key: of the config, which names it.

    Raises:
        ValueError: it does not.
    """
    known = DatasetCatalog.list()
    if name in known:
        return
    similar = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, similar))}?" if similar else ""
    raise ValueError(
        f"{key} names {name!r}, which is not registered.{hint} A data set of your own is "
        "registered by mask2former.data.register_coco_json, register_coco_panoptic or "
        "register_semantic_folders."
    )


def _require_field(name: str, records: Sequence[Mapping[str, Any]], targets: TaskName) -> None:
    """Raise `DatasetError` unless all records have what the mapper will read."""
    field = TASKS[targets].ground_truth
    without = [record for record in records if field not in record]
    if not without:
        return
    fitting = [
        preset_name
        for preset_name, preset in sorted(MAPPER_PRESETS.items())
        if all(TASKS[preset.targets].ground_truth in record for record in records)
    ]
    hint = (
        f"Mappers that fit this data set: {', '.join(fitting)}" if fitting else "Is it a test set"
    )
    raise DatasetError(
        f"The data set {name!r} has nothing to train on for INPUT.DATASET_MAPPER_NAME: "
        f"{len(without)} of {len(records)} images have no {field!r}, such as "
        f"{without[0].get('file_name')}. {hint}{'.' if fitting else '?'}"
    )


def _require_same_classes(names: Sequence[str], targets: TaskName) -> None:
    """Raise `DatasetError` unless all data sets have the same classes and the same things."""
    first = None
    for name in names:
        metadata = MetadataCatalog.get(name)
        classes = metadata.get(TASKS[targets].class_names)
        if classes is None:
            continue
        things = None
        if targets == "panoptic":
            things = sorted((metadata.get("thing_dataset_id_to_contiguous_id") or {}).values())
        if first is None:
            first = (name, list(classes), things)
            continue
        other_name, other_classes, other_things = first
        difference = _difference(other_classes, list(classes))
        if difference is None and things != other_things:
            difference = "different classes are things"
        if difference is not None:
            raise DatasetError(
                f"The data sets {other_name!r} and {name!r} of DATASETS.TRAIN have different "
                f"classes: {difference}. Data sets to train on together must list the same "
                "classes in the same order."
            )


def _difference(first: Sequence[str], second: Sequence[str]) -> str | None:
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return f"class {index} is {one!r} and {other!r}"
    if len(first) != len(second):
        return f"there are {len(first)} and {len(second)}"
    return None


def _without_empty(
    records: list[dict[str, Any]], targets: TaskName | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the records that have a target."""

    def usable(record: Mapping[str, Any]) -> bool:
        if targets == "panoptic":
            objects = record.get("segments_info")
        elif targets != "semantic":
            objects = record.get("annotations")
        else:
            objects = None
        return objects is None or any(not item.get("iscrowd", 0) for item in objects)

    kept = [record for record in records if usable(record)]
    if not kept:
        raise DatasetError(
            f"No image of {', '.join(names)} has anything to train on. Set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on images without objects."
        )
    if len(kept) < len(records):
        logger.info(
            "%d of %d images have nothing to train on and are left out "
            "(DATALOADER.FILTER_EMPTY_ANNOTATIONS)",
            len(records) - len(kept),
            len(records),
        )
    return kept
