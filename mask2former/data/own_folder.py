"""Recognising what lies in a folder of a user's own data: its annotations, images and splits.

These layouts are known, where TRAIN is "train" or "training" and VAL is "val", "valid",
"validation" or, if there is none of these, "test":

- COCO instance JSON: TRAIN/_annotations.coco.json beside its images, as Roboflow exports it;
  annotations/instances_TRAIN.json, perhaps with a year as in COCO, or TRAIN.json, for the images in
  TRAIN/ or images/TRAIN/. Without splits, annotations.json, result.json or
  annotations/instances_default.json for the images in images/.
- COCO panoptic JSON: annotations/panoptic_TRAIN.json, with a folder of PNG files of the same name
  beside it or in the folder above.
- Label maps: images/TRAIN/ and labels/TRAIN/, TRAIN/images/ and TRAIN/labels/, or TRAIN/ and
  labels_TRAIN/; the folder may also be called masks, annotations or semantic. Without splits,
  images/ and labels/. classes.txt or classes.json names the classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mask2former_runtime.text import some_of

from ..tasks import TASKS
from .checks.coco_file import kind_of_json
from .errors import DatasetError
from .files import walk_files
from .label_maps import LABEL_SUFFIXES
from .own_data import InstanceData, OwnData, PanopticData, SemanticData

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation", "test")
# Names of JSON files that annotate everything.
_WHOLE = ("annotations", "_annotations.coco", "instances", "panoptic", "default", "result")
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
    """

    folder: str
    task: str
    train: OwnData | None
    val: OwnData | None
    has_splits: bool
    others: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return what was found, in words, one line for each part."""
        lines = [f"{self.folder}: {TASKS[self.task].files}, for {self.task} segmentation"]
        if self.others:
            lines[0] += f" (also found: {', '.join(self.others)}; choose with --task)"
        for split, data in (("train", self.train), ("val", self.val)):
            if data is not None:
                parts = [value for value in vars(data).values() if isinstance(value, str)]
                inner = [os.path.relpath(part, self.folder) for part in parts]
                named = [
                    part if Path(short).parts[0] == os.pardir else short  # a file of --classes
                    for part, short in zip(parts, inner, strict=True)
                ]
                lines.append(f"  {split if self.has_splits else 'all'}: {', '.join(named)}")
        return "\n".join(lines)


def recognise_folder(
    folder: str | os.PathLike[str],
    task: str | None = None,
    *,
    class_file: str | None = None,
    ignore_label: int | None = None,
) -> OwnFolder:
    """Recognise what lies in a folder; the layouts are at the top of this module.

    Args:
        folder: the folder.
        task: the task whose annotations are wanted. By default, the first task in the order of
            `TASKS` whose annotations are there.
        class_file: names the classes of label maps, instead of a file in the folder.
        ignore_label: see `SemanticData`.

    Raises:
        DatasetError: nothing is recognised, or it is ambiguous; the message says what is there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"{folder}: there is no such folder")
    found: dict[str, OwnFolder] = {}
    for name in TASKS:
        train, val = _first(root, name, _TRAIN), _first(root, name, _VAL)
        whole = None if train or val else _first(root, name, ("",))
        if train or val or whole:
            found[name] = OwnFolder(str(root), name, train or whole, val, whole is None)
    if not found:
        listed = some_of(sorted(path.name for path in root.iterdir())) or "nothing"
        raise DatasetError(
            f"{folder}: no annotations of a known layout: COCO JSON, COCO panoptic JSON and its "
            f"PNG files, or images/ and labels/ with label maps. The folder holds {listed}"
        )
    if task is not None and task not in found:
        raise DatasetError(
            f"{folder}: no annotations for {task} segmentation ({TASKS[task].files}), only for "
            f"{' and '.join(found)}"
        )
    chosen = found[task or next(iter(found))]
    others = tuple(name for name in found if name != chosen.task)
    train, val = (
        replace(data, class_file=class_file or data.class_file, ignore_label=ignore_label)
        if isinstance(data, SemanticData)
        else data
        for data in (chosen.train, chosen.val)
    )
    return replace(chosen, train=train, val=val, others=others)


def png_folder(json_file: str | os.PathLike[str] | None) -> str | None:
    """Return the folder of PNG files of a panoptic JSON, if it is placed as in COCO."""
    if not json_file:
        return None
    path = Path(json_file).with_suffix("")
    candidates = (path, path.parent.parent / path.name)
    return next((str(candidate) for candidate in candidates if candidate.is_dir()), None)


def _first(root: Path, task: str, splits: Sequence[str]) -> OwnData | None:
    """Return the data of the first split that is there; "" stands for all data, without splits."""
    find = _label_maps if task == "semantic" else _coco
    return next((data for split in splits if (data := find(root, task, split))), None)


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
        for path in sorted((root / split).glob("*.json")):
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


def _label_maps(root: Path, task: str, split: str) -> OwnData | None:
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
