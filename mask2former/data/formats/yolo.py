"""YOLO segmentation: a text file per image, with a line per object.

A line is the number of the class and then a polygon, ``x1 y1 x2 y2 ...``, as fractions of the width
and height of the image. An image without a text file, or with an empty one, has no objects.
``data.yaml`` names the classes and the folders of images, as Ultralytics and Roboflow write it.
The last ``images`` in the path of an image, replaced by ``labels``, gives its text file; without
one, it lies beside the image. In place of ``data.yaml``, ``classes.txt`` may name the classes of
images/ and labels/, as Label Studio exports them.

The format has no crowd regions, no ids, and one polygon per object: several parts and holes are
joined by lines without width.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

from mask2former_runtime.image import IMAGE_SUFFIXES
from mask2former_runtime.text import some_of

from ...utils.schema import shown
from ...utils.yaml_aliases import alias_problem
from ..checks.semantic_folders import read_class_names
from ..errors import DatasetError
from ..files import read_text, walk_files
from .reading import MOST_CLASSES, Reading, relative_to, require_names
from .source import InstanceSource, by_split

_CONFIGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names")
_MOST_YAML = 1 << 20  # characters
# Numbers may lie outside 0 to 1 by as much as Ultralytics allows.
_TOLERANCE = 0.01
_DECIMALS = 6


@dataclass(frozen=True)
class YoloSource(InstanceSource):
    """A folder in YOLO's format; a split is a list of folders of images, or of lists of images."""

    name: ClassVar[str] = "yolo"

    names: tuple[str, ...]

    def places(self, split: str) -> list[str]:
        """Return the folders of images, and those of the text files."""
        entries: tuple[str, ...] = self.splits[split]
        folders = [self._label_folder(entry) for entry in entries if os.path.isdir(entry)]
        return list(dict.fromkeys([*entries, *folders]))

    def image_root(self, split: str) -> str:
        """Return the folder of images if there is one, or else the whole folder."""
        entries = self.splits[split]
        return entries[0] if len(entries) == 1 and os.path.isdir(entries[0]) else self.root

    def read(self, split: str) -> Reading:
        """See `InstanceSource.read`."""
        title = f"YOLO labels in {self.root}, {split}"
        reading = Reading(title, self.root, self.image_root(split), self.names)
        paths = dict.fromkeys(
            path for entry in self.splits[split] for path in self._images(entry, reading)
        )
        names = sorted(relative_to(Path(path), reading.image_root) for path in paths)
        records = reading.add_images(names)
        wanted: dict[str, str] = {}
        for name in names:
            path = os.path.join(reading.image_root, name)
            label_file = self._label_file(path)
            if (first := wanted.setdefault(label_file, name)) != name:
                reading.error("two images of the same name", f"as {first}", reading.short(path))
            elif name in records and os.path.lexists(label_file):
                self._read_file(label_file, records[name], reading)
        self._report_orphans(split, wanted, reading)
        return reading

    def _images(self, entry: str, reading: Reading) -> Iterator[str]:
        """Yield the paths of the images in a folder, or of those that a text file lists."""
        if os.path.isdir(entry):
            for name in walk_files(entry):
                if name.lower().endswith(IMAGE_SUFFIXES):
                    yield os.path.normpath(os.path.join(entry, name))
            return
        try:
            lines = read_text(entry, "lists of images").splitlines()
        except DatasetError as error:
            reading.error("list of images cannot be read", str(error), reading.short(entry))
            return
        for number, line in enumerate(lines, start=1):
            if not (name := line.strip()):
                continue
            found = _resolve(name, Path(self.root), Path(entry).parent)
            if found is None or "\0" in name:
                detail = f"there is no file {name!r:.200}"
                reading.error("listed image not found", detail, _line(reading, entry, number))
            else:
                yield os.path.normpath(found)

    def _label_file(self, image_path: str) -> str:
        return os.path.splitext(self._label_folder(image_path))[0] + ".txt"

    def _label_folder(self, path: str) -> str:
        """Return a path with "labels" in place of the last "images" inside of the folder."""
        parts = Path(os.path.relpath(path, self.root)).parts
        for i in reversed(range(len(parts))):
            if parts[i] == "images":
                return str(Path(self.root, *parts[:i], "labels", *parts[i + 1 :]))
        return path

    def _report_orphans(self, split: str, wanted: Collection[str], reading: Reading) -> None:
        """Report text files that belong to no image: their names may be misspelled."""
        for entry in self.splits[split]:
            folder = self._label_folder(entry)
            if folder == entry or not os.path.isdir(folder):
                continue
            for name in sorted(walk_files(folder)):
                path = os.path.normpath(os.path.join(folder, name))
                if name.lower().endswith(".txt") and name != "classes.txt" and path not in wanted:
                    reading.error("labels without an image", f"{entry} has none of this name",
                                  reading.short(path))  # fmt: skip

    def _read_file(self, path: str, image: Mapping[str, Any], reading: Reading) -> None:
        try:
            lines = read_text(path, "labels").splitlines()
        except DatasetError as error:
            reading.error("label file cannot be read", str(error), reading.short(path))
            return
        seen: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            source = _line(reading, path, number)
            if not (text := " ".join(line.split())):
                continue
            if seen.setdefault(text, number) != number:
                reading.warning("object listed twice", f"as in line {seen[text]}", source)
                continue
            try:
                label, polygon = _parse(text, len(self.names), image["width"], image["height"])
            except ValueError as error:
                reading.error("line is not an object", str(error), source)
                continue
            reading.add_object(image, label, [polygon], source)


def _line(reading: Reading, path: str, number: int) -> str:
    return f"{reading.short(path)}, line {number}"


def _parse(text: str, num_classes: int, width: int, height: int) -> tuple[int, list[float]]:
    """Return the class and the polygon in pixels.

    Raises:
        ValueError: it is not an object; the message says why.
    """
    first, *rest = text.split(" ")
    if not re.fullmatch(r"[0-9]{1,9}(\.0*)?", first, re.ASCII):
        raise ValueError(f"it begins with {shown(first)}; the number of a class is needed")
    label = int(float(first))
    if label >= num_classes:
        raise ValueError(f"there is no class {label}, only 0 to {num_classes - 1}")
    if len(rest) == 4:
        raise ValueError("a box (4 numbers); a polygon of at least 3 points, 6 numbers, is needed")
    try:
        numbers = np.array([float(token) for token in rest])
    except ValueError:
        wrong = next(token for token in rest if not _is_number(token))
        raise ValueError(f"{shown(wrong)} is not a number") from None
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(
            f"a polygon of {len(numbers)} numbers; an even number of them, at least 6, is needed"
        )
    outside = ~((numbers >= -_TOLERANCE) & (numbers <= 1 + _TOLERANCE))
    if outside.any():
        raise ValueError(
            f"the coordinate {numbers[outside][0]:g}; they are fractions of the width and height "
            "of the image, 0 to 1"
        )
    points = numbers.reshape(-1, 2) * (width, height)
    # The rasteriser rounds fifths of a pixel: this restores coordinates of a few decimals.
    return label, points.round(_DECIMALS).reshape(-1).tolist()


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


# --- Recognising ---


def recognise(root: Path) -> YoloSource | None:
    """Return the annotations of a folder in YOLO's format, or None.

    Raises:
        DatasetError: ``data.yaml`` cannot be used.
    """
    config = next((root / name for name in _CONFIGS if (root / name).is_file()), None)
    splits: dict[str, tuple[str, ...]]
    if config is not None:
        content = _read_config(config)
        if not any(key in content for key in ("train", "val", "test")):
            return None
        names = _names(content, config)
        base = content.get("path")
        folders = [config.parent]
        if isinstance(base, str) and "\0" not in base:
            folders.insert(0, config.parent / base)
        splits = {}
        for split, keys in (("train", ("train",)), ("val", ("val", "valid", "test"))):
            key = next((key for key in keys if content.get(key)), None)
            if key is not None:
                splits[split] = _entries(content[key], key, config, folders)
        if not splits:
            raise DatasetError(f"{config}: no folder of images ('train' or 'val')")
        return YoloSource(str(root), splits, tuple(names))
    splits = by_split(lambda name: _layout(root, name))
    if not splits:
        return None
    classes = next((root / name for name in _CLASS_FILES if (root / name).is_file()), None)
    if classes is None:
        raise DatasetError(
            f"{root}: YOLO labels without names of classes: data.yaml or classes.txt is missing"
        )
    return YoloSource(str(root), splits, tuple(read_class_names(str(classes))))


def _layout(root: Path, split: str) -> tuple[str, ...] | None:
    """Return the folder of images of a split, if text files of labels are where they belong."""
    for images, labels in ((("images", split), ("labels", split)),
                           ((split, "images"), (split, "labels"))):  # fmt: skip
        place = root.joinpath(*labels)
        if not split and (place / "train").is_dir():
            continue
        if root.joinpath(*images).is_dir() and place.is_dir():
            texts = [n for n in walk_files(str(place)) if n.endswith(".txt") and n != "classes.txt"]
            if texts:
                return (str(root.joinpath(*images)),)
    return None


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which PyYAML would keep the last value."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    problem = f"the key {shown(key.value)} occurs twice"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                keys.add((key.tag, key.value))
        return node


def _read_config(path: Path) -> Mapping[str, Any]:
    text = read_text(str(path), "names of classes")
    if len(text) > _MOST_YAML:
        raise DatasetError(f"{path}: over {_MOST_YAML} characters")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        problem = alias_problem(root) if root else None
        content = loader.construct_document(root) if root and not problem else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise DatasetError(f"{path}{where}: not YAML: {reason}") from error
    except (ValueError, TypeError, OverflowError, RecursionError, AttributeError) as error:
        raise DatasetError(f"{path}: not YAML that can be read: {type(error).__name__}") from error
    if problem:
        raise DatasetError(f"{path}: {problem}")
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: a mapping with 'names' and 'train' is needed")
    return content


def _names(content: Mapping[str, Any], path: Path) -> list[str]:
    """Return the names of the classes, which ``names`` lists or gives by their numbers."""
    names, count = content.get("names"), content.get("nc")
    if names is None and type(count) is int and 0 < count <= MOST_CLASSES:
        return [f"class {i}" for i in range(count)]
    if isinstance(names, dict):
        numbers = range(len(names))
        if not all(type(key) is int for key in names) or sorted(names) != list(numbers):
            raise DatasetError(
                f"{path}: 'names' has the numbers {some_of([shown(key) for key in names])}; they "
                f"must be 0 to {len(names) - 1}"
            )
        names = [names[number] for number in numbers]
    if not isinstance(names, list):
        raise DatasetError(f"{path}: 'names' must list the classes, or give them by number")
    names = [str(name) if type(name) in (int, float) else name for name in names]
    if type(count) is int and count != len(names):
        raise DatasetError(f"{path}: 'nc' is {shown(count)}, but 'names' has {len(names)} classes")
    return require_names(names, f"{path}: names")


def _entries(value: Any, key: str, config: Path, folders: list[Path]) -> tuple[str, ...]:
    """Return the folders and lists of images that a key of ``data.yaml`` names."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, str) and v and "\0" not in v for v in values):
        raise DatasetError(f"{config}: {key!r} is {shown(value)}; a folder of images is needed")
    entries = []
    for text in values:
        found = _resolve(text, *folders)
        if found is None:
            tried = some_of([os.path.normpath(folder / text) for folder in folders])
            raise DatasetError(f"{config}: {key!r} names {shown(text)}, and there is no {tried}")
        beside = os.path.join(found, "images")  # where Roboflow's own files are
        entries.append(os.path.normpath(beside if os.path.isdir(beside) else found))
    return tuple(entries)


def _resolve(text: str, *folders: Path) -> str | None:
    """Return the path of a file or folder, relative to the first folder that has it, or None.

    Leading ``..`` may be too many: Roboflow writes ``../train/images`` for ``train/images``.
    """
    text = text.strip().replace("\\", "/")
    plain = re.sub(r"^(\.{1,2}/)+", "", text)
    for variant in dict.fromkeys((text, plain)):
        for folder in folders:
            try:
                if (path := folder / variant).exists():
                    return str(path)
            except (OSError, ValueError):  # a name that no file can have
                continue
    return None
