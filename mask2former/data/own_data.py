"""Checking a user's own data, comparing it with the classes of the model, and registering it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_runtime.text import counted

from ..structures import Classes
from ..utils.processes import on_main_process
from .checks.coco_instances import check_coco_json
from .checks.coco_panoptic import check_panoptic_json
from .checks.report import ImageContent, Report, StoredStatistics
from .checks.semantic_folders import check_semantic_folders, read_class_names
from .datasets.coco_instances import register_coco_json
from .datasets.coco_panoptic import register_coco_panoptic
from .datasets.semantic_folders import register_semantic_folders
from .errors import DatasetError
from .metadata import ONLY_IMAGES
from .split import Split

# Starts the names that `register_own_data` gives.
CUSTOM_PREFIX = "custom_"


@dataclass(frozen=True)
class InstanceData:
    """COCO instance JSON and the folder of its images."""

    task: ClassVar[str] = "instance"
    json_file: str
    image_root: str

    @property
    def places(self) -> list[str]:
        """The user's files and folders."""
        return [self.json_file, self.image_root]

    def check(self, *, evaluated: bool, pixels: bool | None, classes: Classes | None) -> Report:
        """See `check_coco_json`."""
        return check_coco_json(self.json_file, self.image_root, evaluated=evaluated, pixels=pixels)

    def register(self, name: str, classes: Classes) -> None:
        """Register under `name` with these classes."""
        categories = dict(zip(classes.ids, classes.names, strict=True))
        register_coco_json(name, self.json_file, self.image_root, categories=categories)


@dataclass(frozen=True)
class PanopticData:
    """COCO panoptic JSON, the folder of its images and the folder of its PNG files."""

    task: ClassVar[str] = "panoptic"
    json_file: str
    image_root: str
    panoptic_root: str

    @property
    def places(self) -> list[str]:
        """The user's files and folders."""
        return [self.json_file, self.image_root, self.panoptic_root]

    def check(self, *, evaluated: bool, pixels: bool | None, classes: Classes | None) -> Report:
        """See `check_panoptic_json`."""
        return check_panoptic_json(
            self.json_file, self.image_root, self.panoptic_root, evaluated=evaluated, pixels=pixels
        )

    def register(self, name: str, classes: Classes) -> None:
        """Register under `name` with these classes."""
        register_coco_panoptic(
            name,
            self.json_file,
            self.panoptic_root,
            self.image_root,
            categories=classes.to_categories(),
        )


@dataclass(frozen=True)
class SemanticData:
    """A folder of images and a folder of label maps.

    ``class_file`` names the classes (see `read_class_names`); without it they are the classes of
    the evaluated model. For ``ignore_label`` see `check_semantic_folders`.
    """

    task: ClassVar[str] = "semantic"
    image_root: str
    label_root: str
    class_file: str | None = None
    ignore_label: int | None = None

    @property
    def places(self) -> list[str]:
        """The user's files and folders."""
        return [self.image_root, self.label_root, *([self.class_file] if self.class_file else [])]

    def check(self, *, evaluated: bool, pixels: bool | None, classes: Classes | None) -> Report:
        """See `check_semantic_folders`."""
        if self.class_file is not None:
            names = read_class_names(self.class_file)
        elif classes is not None:
            names = list(classes.names)
        else:
            raise DatasetError(
                "label maps do not name their classes: give a file that does, with --classes"
            )
        return check_semantic_folders(
            self.image_root,
            self.label_root,
            names,
            ignore_label=self.ignore_label,
            pixels=pixels,
        )

    def register(self, name: str, classes: Classes) -> None:
        """Register under `name` with these classes."""
        assert classes.ignore_label is not None
        register_semantic_folders(
            name,
            self.image_root,
            self.label_root,
            classes=classes.names,
            ignore_label=classes.ignore_label,
        )


OwnData = InstanceData | PanopticData | SemanticData
# By task. The first arguments of each are the values of the task's command-line flags.
OWN_DATA: dict[str, type[OwnData]] = {
    kind.task: kind for kind in (InstanceData, PanopticData, SemanticData)
}


@dataclass(frozen=True)
class Registered:
    """The data sets that were registered.

    Attributes:
        train: name of the training set, or None.
        val: name of the validation set, or None.
        classes: the classes of the training set or of the trained model.
        images: what the images of the training set hold, by file name; empty without one.
        num_val: number of validation images.
        split: how one set of images became both sets, or None.
        stored: how the images of the training set are stored, if they are no pictures of 8 bits.
    """

    train: str | None
    val: str | None
    classes: Classes
    images: Mapping[str, ImageContent]
    num_val: int
    split: Split | None = None
    stored: StoredStatistics | None = None


def register_own_data(
    train: OwnData | None,
    val: OwnData | None,
    *,
    trained: Classes | None = None,
    pixels: bool | None = None,
    choose_split: Callable[[Mapping[str, ImageContent]], Split | None] | None = None,
) -> Registered:
    """Check and register a user's own training and validation set.

    The main process checks, and the others wait for the result. Another call with the same files
    is harmless.

    Args:
        train: the training set; None to evaluate only.
        val: the validation set, of the same kind; None to train without evaluation.
        trained: the classes of a trained model, to evaluate it; by default those of `val`.
        pixels: whether to decode every image, label map and panoptic PNG, or only to read their
            headers; None decodes images only if this takes less than about half a minute.
        choose_split: divides the images of a single set by what they hold. Of `train`, a part
            becomes the validation set; of `val`, the training part is left out.

    Raises:
        DatasetError: the data has errors; the message lists all of them.
    """

    def check() -> tuple[list[Report], Split | None]:
        is_divided = choose_split is not None
        found = check_own_data(train, val, trained=trained, pixels=pixels, evaluated=is_divided)
        return found, choose_split(found[0].images) if choose_split is not None else None

    reports, split = on_main_process(check)
    classes = trained or reports[0].classes  # a validation set may lack some classes
    if isinstance(val or train, SemanticData):
        # The two sets may have different labels for pixels without a class.
        of_val = replace(classes, ignore_label=reports[-1].classes.ignore_label)
        classes = replace(classes, ignore_label=reports[0].classes.ignore_label)
    else:
        of_val = classes
    images: Mapping[str, ImageContent] = {} if train is None else reports[0].images
    num_val = 0 if val is None else reports[-1].num_images
    only_train = only_val = None
    if split is not None:
        only_train, only_val = frozenset(split.train), frozenset(split.val)
        images = {name: content for name, content in images.items() if name in only_train}
        num_val = len(only_val)
        val = val or train
    return Registered(
        None if train is None else _register("train", train, classes, only_train),
        None if val is None else _register("val", val, of_val, only_val),
        classes,
        images=images,
        num_val=num_val,
        split=split,
        stored=None if train is None else reports[0].stored,
    )


def check_own_data(
    train: OwnData | None,
    val: OwnData | None,
    *,
    trained: Classes | None = None,
    pixels: bool | None = None,
    evaluated: bool = False,
) -> list[Report]:
    """Check a user's own data, print the reports and return them, that of the training set first.

    Args:
        train: see `register_own_data`, and so are the others.
        val: the validation set.
        trained: the classes of a trained model.
        pixels: whether to decode files.
        evaluated: whether a part of `train` is for evaluation, too.

    Raises:
        DatasetError: the data has errors; the message lists all of them.
    """
    reports = []
    if train is not None:
        reports.append(train.check(evaluated=evaluated, pixels=pixels, classes=None))
        trained = reports[0].classes
    if val is not None:
        reports.append(val.check(evaluated=True, pixels=pixels, classes=None if train else trained))
        if trained and reports[-1].classes:
            _compare_classes(trained, reports[-1], val.task)
        if train is not None:
            _compare_kinds(reports[0], reports[-1])
    texts = [str(report) for report in reports if report.problems]
    num_errors = sum(report.num_errors for report in reports)
    if num_errors:
        heading = f"the data cannot be used as it is: {counted(num_errors, 'error')}"
        raise DatasetError("\n".join([heading, *texts]))
    # Print, because Detectron2 sets up logging from the config, which needs the registered names.
    print("\n".join([*texts, *(report.summary() for report in reports)]))
    return reports


def _register(
    split: str, data: OwnData, classes: Classes, only: frozenset[str] | None = None
) -> str:
    """Register the data, or only some of its images, under a name that depends on the paths."""
    parts = [os.path.abspath(place) for place in data.places]
    parts += sorted(only or ())
    name = f"{CUSTOM_PREFIX}{split}_{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:8]}"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    data.register(name, classes)
    if only is not None:
        load, paths = DatasetCatalog.pop(name), {os.path.join(data.image_root, n) for n in only}
        DatasetCatalog.register(name, lambda: [r for r in load() if r["file_name"] in paths])
        MetadataCatalog.get(name).set(**{ONLY_IMAGES: only})
    return name


def _compare_kinds(train: Report, val: Report) -> None:
    """Add to the report of the validation set if its images are of another kind."""
    kinds = [
        None if r.stored is None else (r.stored.type, len(r.stored.mean)) for r in (train, val)
    ]
    if kinds[0] != kinds[1] and train.num_images and val.num_images:
        here, there = (
            "pictures of 8 bits" if kind is None else f"{kind[1]} x {kind[0]}"
            for kind in kinds[::-1]
        )
        detail = f"{here} here and {there} there"
        val.add("images of another kind than the training set", True, detail)


def _compare_classes(trained: Classes, report: Report, task: str) -> None:
    """Add the differences from the trained classes to the report of the validation set."""
    kind = "category differs from the training set"
    val = report.classes
    for category_id, name in zip(val.ids, val.names, strict=True):
        index, there = val.index[category_id], trained.index.get(category_id)
        if there is None:
            detail = f"{name!r} is id {category_id} here"
            if name in trained.names:
                detail += f" and id {trained.ids[trained.names.index(name)]} there"
            else:
                detail += " and does not exist there"
            report.add(kind, True, detail)
        elif trained.names[there] != name:
            detail = f"id {category_id} is {name!r} here and {trained.names[there]!r} there"
            report.add(kind, True, detail)
        elif task == "panoptic" and val.is_thing(index) != trained.is_thing(there):
            a, b = ("thing", "stuff") if val.is_thing(index) else ("stuff", "thing")
            report.add(kind, True, f"id {category_id}, {name!r}, is {a} here and {b} there")
    missing = [trained.names[i] for c, i in trained.index.items() if c not in val.index]
    if missing and task == "panoptic":
        detail = f"{', '.join(missing)}: panoptic quality needs all classes; add them"
        report.add("class missing in 'categories' of validation", True, detail)
    elif missing:
        report.add("class that validation lacks", False, ", ".join(missing))
