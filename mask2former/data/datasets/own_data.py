"""A user's own data: checked, compared with the classes of the model, registered."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, TypeVar

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ..checks.coco_instances import check_coco_json
from ..checks.coco_panoptic import check_panoptic_json
from ..checks.report import Report
from ..checks.semantic_folders import check_semantic_folders, read_class_names
from ..classes import class_names
from ..errors import DatasetError
from .coco_instances import register_coco_json
from .coco_panoptic import register_coco_panoptic
from .semantic_folders import register_semantic_folders

T = TypeVar("T")
# Of the names that `register_own_data` gives.
CUSTOM_PREFIX = "custom_"


@dataclass(frozen=True)
class InstanceData:
    """COCO instance JSON and the folder of its images."""

    task: ClassVar[str] = "instance"
    json_file: str
    image_root: str

    def check(self, *, evaluated: bool, pixels: bool, classes: Report | None) -> Report:
        """See `check_coco_json`."""
        return check_coco_json(self.json_file, self.image_root, evaluated=evaluated)

    def register(self, name: str, report: Report, classes: Report) -> None:
        """Register under `name` with the categories of `classes`."""
        register_coco_json(name, self.json_file, self.image_root, categories=classes.categories)


@dataclass(frozen=True)
class PanopticData:
    """COCO panoptic JSON, the folder of its images and that of its PNG files."""

    task: ClassVar[str] = "panoptic"
    json_file: str
    image_root: str
    panoptic_root: str

    def check(self, *, evaluated: bool, pixels: bool, classes: Report | None) -> Report:
        """See `check_panoptic_json`."""
        return check_panoptic_json(
            self.json_file, self.image_root, self.panoptic_root, evaluated=evaluated, pixels=pixels
        )

    def register(self, name: str, report: Report, classes: Report) -> None:
        """Register under `name` with the categories of `classes`."""
        categories: list[dict[str, Any]] = []
        for category_id, category in sorted(classes.categories.items()):
            isthing = category_id in classes.things
            categories.append({"id": category_id, "name": category, "isthing": isthing})
            if category_id in classes.colors:
                categories[-1]["color"] = classes.colors[category_id]
        register_coco_panoptic(
            name, self.json_file, self.panoptic_root, self.image_root, categories=categories
        )


@dataclass(frozen=True)
class SemanticData:
    """A folder of images and one of label maps.

    ``class_file`` names the classes (see `read_class_names`); without it they are those of the
    model that is evaluated. ``ignore_label`` is as of `check_semantic_folders`.
    """

    task: ClassVar[str] = "semantic"
    image_root: str
    label_root: str
    class_file: str | None = None
    ignore_label: int | None = None

    def check(self, *, evaluated: bool, pixels: bool, classes: Report | None) -> Report:
        """See `check_semantic_folders`."""
        if self.class_file is not None:
            names = read_class_names(self.class_file)
        elif classes is not None:
            names = [classes.categories[i] for i in sorted(classes.categories)]
        else:
            raise DatasetError(
                "label maps do not name their classes: give the file that does, with --classes"
            )
        return check_semantic_folders(
            self.image_root,
            self.label_root,
            names,
            ignore_label=self.ignore_label,
            pixels=pixels,
        )

    def register(self, name: str, report: Report, classes: Report) -> None:
        """Register under `name` with the classes of `classes`."""
        assert report.ignore_label is not None
        register_semantic_folders(
            name,
            self.image_root,
            self.label_root,
            classes=list(classes.categories.values()),
            ignore_label=report.ignore_label,
        )


OwnData = InstanceData | PanopticData | SemanticData


@dataclass(frozen=True)
class Registered:
    """What was registered.

    Attributes:
        train: name of the training set, or None.
        val: name of the validation set.
        classes: class names in the order of the contiguous ids.
        ignore_label: value of pixels without class in label maps, where there are such.
    """

    train: str | None
    val: str
    classes: list[str]
    ignore_label: int | None = None


def register_own_data(
    train: OwnData | None, val: OwnData, *, trained: Report | None = None, pixels: bool = True
) -> Registered:
    """Check and register a user's own training and validation set.

    The main process checks, the others wait for what it finds. Calling it again with the same files
    is harmless.

    Args:
        train: the training set; None to evaluate only.
        val: the validation set, of the same kind.
        trained: the classes of a model that is evaluated only, from `trained_classes`; by default
            those of `val`.
        pixels: whether to read every label map and panoptic PNG.

    Raises:
        DatasetError: something is wrong; the message lists everything that is.
    """
    reports = _on_main_process(lambda: _check(train, val, trained, pixels))
    classes = trained or reports[0]  # a validation set may lack some classes
    train_name = None if train is None else _register("train", train, reports[0], classes)
    val_name = _register("val", val, reports[-1], classes)
    names = [classes.categories[i] for i in sorted(classes.categories)]
    return Registered(train_name, val_name, names, reports[0].ignore_label)


def trained_classes(
    source: str, metadata: Mapping[str, Any], num_classes: int, task: str
) -> Report | None:
    """Return the classes of a trained model, as the report of its training set had them.

    Args:
        source: where `metadata` comes from.
        metadata: from `read_metadata`.
        num_classes: of the model.
        task: of the data that it is evaluated on.

    Returns:
        None if `metadata` is that of other classes.
    """
    names = class_names(metadata, num_classes)
    if names is None:
        return None
    ids: dict[int, int] = {}  # contiguous id -> id in the data set; label maps have the former
    for kind in () if task == "semantic" else ("stuff", "thing"):
        to_index = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
        ids.update({index: category_id for category_id, index in to_index.items()})
    categories = {ids.get(index, index): name for index, name in enumerate(names)}
    things = set(metadata.get("thing_dataset_id_to_contiguous_id") or ())
    return Report(source, categories=categories, things=things)


def _check(
    train: OwnData | None, val: OwnData, trained: Report | None, pixels: bool
) -> list[Report]:
    """Return the reports, of which none has an error, that of training first."""
    reports = [val.check(evaluated=True, pixels=pixels, classes=trained)]
    if train is not None:
        reports.insert(0, train.check(evaluated=False, pixels=pixels, classes=None))
        trained = reports[0]
    if trained is not None and trained.categories and reports[-1].categories:
        _compare_classes(trained, reports[-1], val.task)
    texts = [str(report) for report in reports if report.problems]
    num_errors = sum(report.num_errors for report in reports)
    if num_errors:
        errors = "1 error" if num_errors == 1 else f"{num_errors} errors"
        heading = f"the data cannot be used as it is: {errors}"
        raise DatasetError("\n".join([heading, *texts]))
    # Printed: Detectron2 sets up logging from the config, which needs the names to be registered.
    print("\n".join([*texts, *(report.summary() for report in reports)]))
    return reports


def _on_main_process(function: Callable[[], T]) -> T:
    """Return what `function` returns on the main process; raise there what it raises."""
    result: T | DatasetError | None = None
    if comm.is_main_process():
        try:
            result = function()
        except DatasetError as error:
            result = error
    found = comm.all_gather(result)[0]
    if isinstance(found, DatasetError):
        raise found if comm.is_main_process() else DatasetError("see the main process")
    return found


def _register(split: str, data: OwnData, report: Report, classes: Report) -> str:
    """Register under a name that the paths determine; return it."""
    paths = [os.path.abspath(value) for value in astuple(data) if isinstance(value, str)]
    name = f"{CUSTOM_PREFIX}{split}_{hashlib.sha256(chr(10).join(paths).encode()).hexdigest()[:8]}"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    data.register(name, report, classes)
    return name


def _compare_classes(trained: Report, val: Report, task: str) -> None:
    """Add to `val` what would make its classes other ones than those that are trained."""
    kind = "category differs from the training set"
    for category_id, name in val.categories.items():
        there = trained.categories.get(category_id)
        if there is None:
            others = [i for i, other in trained.categories.items() if other == name]
            detail = f"{name!r} is id {category_id} here"
            detail += f" and id {others[0]} there" if others else " and is not there at all"
            val.add(kind, True, detail)
        elif there != name:
            detail = f"id {category_id} is {name!r} here and {there!r} there"
            val.add(kind, True, detail)
        elif task == "panoptic" and (category_id in val.things) != (category_id in trained.things):
            a, b = ("thing", "stuff") if category_id in val.things else ("stuff", "thing")
            val.add(kind, True, f"id {category_id}, {name!r}, is {a} here and {b} there")
    missing = [n for i, n in sorted(trained.categories.items()) if i not in val.categories]
    if missing and task == "panoptic":
        detail = f"{', '.join(missing)}: panoptic quality needs to know them; add them"
        val.add("class missing in 'categories' of validation", True, detail)
    elif missing:
        val.add("class that validation lacks", False, ", ".join(missing))
