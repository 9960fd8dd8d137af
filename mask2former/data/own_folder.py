"""Recognising what lies in a folder of a user's own data: its annotations, images and splits.

These layouts are known, where TRAIN is "train" or "training" and VAL is "val", "valid",
"validation" or, if there is none of these, "test". Other formats are in `formats`.

- COCO instance JSON: TRAIN/_annotations.coco.json beside its images, as Roboflow exports it;
  annotations/instances_TRAIN.json, perhaps with a year as in COCO, or TRAIN.json, for the images in
  TRAIN/ or images/TRAIN/. Without splits, annotations.json, result.json (Label Studio) or
  annotations/instances_default.json (CVAT) for the images in images/.
- COCO panoptic JSON: annotations/panoptic_TRAIN.json, with a folder of PNG files of the same name
  beside it or in the folder above.
- Label maps: images/TRAIN/ and labels/TRAIN/, TRAIN/images/ and TRAIN/labels/, or TRAIN/ and
  labels_TRAIN/; the folder may also be called masks, annotations or semantic. Without splits,
  images/ and labels/. classes.txt or classes.json names the classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mask2former_runtime.text import some_of

from ..tasks import TASKS
from .checks.coco_file import kind_of_json
from .errors import DatasetError
from .files import walk_files
from .formats import color_maps
from .formats.coco_exports import CocoExportSource, image_folder
from .formats.converted import ConvertedMaps, converted
from .formats.recognise import sources
from .formats.source import WHOLE, Source, by_split
from .label_maps import LABEL_SUFFIXES
from .own_data import InstanceData, OwnData, PanopticData, SemanticData

# Names of JSON files that annotate everything.
_WHOLE = ("annotations", "_annotations.coco", "instances", "panoptic", "default", "result")
# JSON files beside images that are looked into.
_MOST_JSON = 10
_LABELS = ("labels", "masks", "annotations", "semantic")
_CLASSES = ("classes.txt", "classes.json")


@dataclass(frozen=True)
class OwnFolder:
    """What was recognised in a folder.

    Attributes:
        folder: the folder.
        task: the task that the annotations are for.
        train: the training set, or everything if there are no splits.
        val: the validation set.
        has_splits: whether the folder separates training from validation.
        others: further tasks that the folder has annotations for.
        files: the format, in words.
    """

    folder: str
    task: str
    train: OwnData | None
    val: OwnData | None
    has_splits: bool
    others: tuple[str, ...] = ()
    files: str = ""

    def summary(self) -> str:
        """Return what was found, in words, one line for each part."""
        files = self.files or TASKS[self.task].files
        lines = [f"{self.folder}: {files}, for {self.task} segmentation"]
        if self.others:
            lines[0] += f" (also found: {', '.join(self.others)}; choose with --task)"
        for split, data in (("train", self.train), ("val", self.val)):
            if data is not None:
                parts = data.places
                inner = [os.path.relpath(part, self.folder) for part in parts]
                named = [
                    part if Path(short).parts[:1] == (os.pardir,) else short  # a file of --classes
                    for part, short in zip(parts, inner, strict=True)
                ]
                lines.append(f"  {split if self.has_splits else 'all'}: {', '.join(named)}")
        return "\n".join(lines)


def recognise_folder(
    folder: str | os.PathLike[str],
    task: str | None = None,
    *,
    format: str | None = None,
    class_file: str | None = None,
    ignore_label: int | None = None,
) -> OwnFolder:
    """Recognise what lies in a folder; the layouts are at the top of this module.

    Args:
        folder: the folder.
        task: the task whose annotations are wanted. By default, the first task in the order of
            `TASKS` whose annotations are there.
        format: the format that is wanted, a key of `FORMATS` of ``mask2former.formats``, if the
            folder has several for the same task.
        class_file: names the classes of label maps, instead of a file in the folder.
        ignore_label: see `SemanticData`.

    Raises:
        DatasetError: nothing is recognised, or it is ambiguous; the message says what is there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"{folder}: there is no such folder")
    found: dict[str, dict[str, _Found]] = {}
    others = sources(root, format)
    for name in TASKS:
        of_task = _in_formats(root, name, others, class_file)
        if format is not None:
            of_task = {key: value for key, value in of_task.items() if key == format}
        if of_task:
            found[name] = of_task
    if not found:
        listed = some_of(sorted(path.name for path in root.iterdir())) or "nothing"
        wanted = "a known layout" if format is None else f"the format {format!r}"
        raise DatasetError(
            f"{folder}: no annotations of {wanted}: COCO JSON, COCO panoptic JSON and its PNG "
            "files, YOLO segmentation, LabelMe JSON, Pascal VOC, one mask file per object, or "
            f"images/ and labels/ with label maps. The folder holds {listed}"
        )
    if task is not None and task not in found:
        raise DatasetError(
            f"{folder}: no annotations for {task} segmentation ({TASKS[task].files}), only for "
            f"{' and '.join(found)}"
        )
    chosen = task or next(iter(found))
    if len(found[chosen]) > 1:
        raise DatasetError(
            f"{folder}: annotations for {chosen} segmentation in several formats: "
            f"{', '.join(found[chosen])}. Choose one with --format"
        )
    result = _own_folder(root, chosen, next(iter(found[chosen].values())))
    if ignore_label is not None and isinstance(result.train or result.val, ConvertedMaps):
        raise DatasetError(
            f"{folder}: --ignore-label is for label maps of numbers, but these are {result.files}, "
            "whose colours say which pixels have no class"
        )
    train, val = (
        replace(
            data,
            class_file=class_file or data.class_file,
            ignore_label=data.ignore_label if ignore_label is None else ignore_label,
        )
        if isinstance(data, SemanticData) and not isinstance(data, ConvertedMaps)
        else data
        for data in (result.train, result.val)
    )
    further = tuple(name for name in found if name != chosen)
    return replace(result, train=train, val=val, others=further)


# What is in a folder by split: data as it is, or a source of data to convert.
_Found = dict[str, OwnData] | Source


def _in_formats(
    root: Path, task: str, others: list[Source], class_file: str | None
) -> dict[str, _Found]:
    """Return what a folder has for a task, by format; `others` are what is converted."""
    found: dict[str, _Found] = {source.name: source for source in others if source.task == task}
    data = by_split(lambda name: _find(root, task, name))
    if not data:
        return found
    if task == "instance":
        return {"coco": _with_images(root, data), **found}
    if task == "panoptic":
        return {"coco-panoptic": data, **found}
    masks = [x.places(split) for x in others if x.name == "masks" for split in x.splits]
    if any(x.label_root in places for x in data.values() for places in masks):
        return found  # a file there is a mask of an object
    folders = {split: (x.image_root, x.label_root) for split, x in data.items()}
    colors = color_maps.recognise(folders, root, class_file)
    return {"label-maps": data, **found} if colors is None else {colors.name: colors, **found}


def _with_images(root: Path, data: dict[str, Any]) -> _Found:
    """Return COCO instance files with the folders that their names of images are relative to."""
    folders = {
        split: image_folder(Path(x.json_file), (Path(x.image_root), root))
        for split, x in data.items()
    }
    placed = {split: InstanceData(x.json_file, str(folders[split][0])) for split, x in data.items()}
    if not any(are_other_paths for _, are_other_paths in folders.values()):
        return dict(placed)
    splits = {split: (x.json_file, x.image_root) for split, x in placed.items()}
    return CocoExportSource(str(root), splits)


def _own_folder(root: Path, task: str, found: _Found) -> OwnFolder:
    """Return the data of both splits."""
    data: dict[str, OwnData]
    if isinstance(found, Source):
        data, files = {split: converted(found, split) for split in found.splits}, found.files
    else:
        data, files = found, ""
    train = data.get("train") or data.get(WHOLE)
    return OwnFolder(
        str(root), task, train, data.get("val"), has_splits=WHOLE not in data, files=files
    )


def png_folder(json_file: str | os.PathLike[str] | None) -> str | None:
    """Return the folder of PNG files of a panoptic JSON, if it is placed as in COCO."""
    if not json_file:
        return None
    path = Path(json_file).with_suffix("")
    candidates = (path, path.parent.parent / path.name)
    return next((str(candidate) for candidate in candidates if candidate.is_dir()), None)


def _find(root: Path, task: str, split: str) -> OwnData | None:
    """Return the data of a split; "" stands for all data, without splits."""
    return _label_maps(root, split) if task == "semantic" else _coco(root, task, split)


def _coco(root: Path, task: str, split: str) -> OwnData | None:
    files = [
        (path, images)
        for path, images in _json_files(root, split)
        if kind_of_json(str(path)) == task
    ]
    if not files:
        return None
    if len(files) > 1:
        named = some_of([str(path.relative_to(root)) for path, _ in files])
        raise DatasetError(
            f"{root}: several files annotate {f'{split!r}' if split else 'the images'}: {named}. "
            "Name the files of your data one by one (--train-json and so on), or move the others"
        )
    path, images = files[0]
    if task == "instance":
        return InstanceData(str(path), str(images))
    segments = png_folder(path)
    if segments is None:
        raise DatasetError(f"{path}: its folder of PNG files, {path.with_suffix('')}, is missing")
    return PanopticData(str(path), str(images), segments)


def _json_files(root: Path, split: str) -> Iterator[tuple[Path, Path]]:
    """Yield JSON files whose place says that they annotate a split, with the folder of images."""
    if split:
        beside = sorted((root / split).glob("*.json"))
        if len(beside) > _MOST_JSON:  # one for each image
            beside = [path for path in beside if path.stem in _WHOLE]
        for path in beside:
            inner = path.parent / "images"
            yield path, inner if inner.is_dir() else path.parent
    names = f"{split}(?:[0-9]{{4}})?" if split else "|".join(map(re.escape, _WHOLE))
    for place in (root / "annotations", root):
        for path in sorted(place.glob("*.json")):
            match = re.fullmatch(f"(?:instances_|panoptic_)?({names})", path.stem)
            if match:
                name = match[1]
                folders = (f"{name}/images", name, f"images/{name}", "images")
                candidates = (root / folder for folder in folders)
                yield path, next((f for f in candidates if f.is_dir() and f != place), root)


def _label_maps(root: Path, split: str) -> OwnData | None:
    for images, labels in _map_folders(split):
        holds_maps = (root / images).is_dir() and any(
            name.lower().endswith(LABEL_SUFFIXES) for name in walk_files(str(root / labels))
        )
        if holds_maps:
            classes = next((root / name for name in _CLASSES if (root / name).is_file()), None)
            file = None if classes is None else str(classes)
            return SemanticData(str(root / images), str(root / labels), file)
    return None


def _map_folders(split: str) -> Iterator[tuple[str, str]]:
    for labels in _LABELS:
        if not split:
            yield "images", labels
            continue
        yield f"images/{split}", f"{labels}/{split}"
        yield f"{split}/images", f"{split}/{labels}"
        yield split, f"{labels}_{split}"
        yield split, f"{split}_{labels}"
