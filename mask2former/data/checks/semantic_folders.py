"""Checking a folder of images and a folder of label maps, to list all mistakes at once."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mask2former_runtime.image import IMAGE_SUFFIXES
from mask2former_runtime.text import some_of

from ...structures import Classes
from ..coco_format import is_text
from ..errors import DatasetError
from ..files import files_by_stem, read_text, walk_files
from ..label_maps import LABEL_SUFFIXES, read_label_map
from .image_files import (
    Header,
    choose_decoding,
    count_values,
    map_files,
    read_header,
    size_difference,
)
from .report import ImageContent, Report
from .stored_images import StoredCheck

# Bits per pixel by Pillow's mode. Older versions of Pillow read a 16-bit PNG as "I".
_BITS = {"1": 8, "L": 8, "P": 8, "I": 16}
_IGNORE_LABELS = {8: 255, 16: 65535}
_WHAT_TO_DO = (
    "save the class number of each pixel as a PNG with one channel of 8 or 16 bits, or as the "
    "index into a palette"
)


def read_class_names(path: str) -> list[str]:
    """Read class names in the order of their numbers: one per line, or a JSON list.

    Raises:
        DatasetError: the file cannot be read, or a name is missing or occurs twice.
    """
    return class_names_in(read_text(path, "class names"), path)


def class_names_in(text: str, path: str) -> list[str]:
    """Return the class names in the text of a file; see `read_class_names`."""
    text = text.strip()
    if text.startswith(("[", "{")):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}: not JSON: {error}") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DatasetError(f"{path}: class names in JSON must be a list of texts, from class 0")
    else:
        names = text.splitlines()
    names = [name.strip() for name in names]
    if not text or not names:
        raise DatasetError(f"{path}: there are no class names")
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if not is_text(name):
            reason = f"the name {name!r:.50}, which cannot be written" if name else "no name"
            raise DatasetError(f"{path}: class {number} (counted from 0) has {reason}")
        if first.setdefault(name, number) != number:
            raise DatasetError(
                f"{path}: classes {first[name]} and {number} (counted from 0) are both "
                f"{name!r:.100}"
            )
    return names


def check_semantic_folders(
    image_root: str,
    label_root: str,
    classes: Sequence[str],
    *,
    ignore_label: int | None = None,
    pixels: bool | None = None,
) -> Report:
    """Check the headers of images and the pixels of their label maps.

    Errors would stop training or evaluation, or silently change what the model learns. Warnings
    are mistakes that do neither.

    Args:
        image_root: folder of the images, including subfolders.
        label_root: folder of the label maps, which have the paths of their images, apart from the
            suffix.
        classes: class names in the order of their labels.
        ignore_label: label of pixels without a class; None stands for 255 in maps of up to 8 bits
            and 65535 in maps of 16 bits.
        pixels: whether to decode images and label maps, or to read only their headers. None
            decodes the label maps, which takes some milliseconds each, and the images if this takes
            less than about half a minute.

    Returns:
        The report; its ``classes.ignore_label`` is the label of pixels without a class. Bad data
        never raises an exception.
    """
    report = Report(str(label_root), unit="pixels", classes=Classes(classes, range(len(classes))))
    pairs = _pair(str(image_root), str(label_root), report)
    decode = choose_decoding([pair.image_path for pair in pairs], pixels, report)
    read = map_files(
        lambda pair: _read(pair, decode, pixels is not False), pairs, "Checking images, label maps"
    )
    stored = StoredCheck(report)
    maps = []
    for found in read:
        if _is_sound(found, report):
            maps.append(found)
        if isinstance(found.image, Header):
            stored.add(found.image_path, found.image.kind, file_name=found.name)
    stored.finish()
    if ignore_label is None:
        ignore_label = _ignore_label(maps, report)
    report.classes = replace(report.classes, ignore_label=ignore_label)
    for pair in maps:
        size = pair.image.upright if isinstance(pair.image, Header) else None
        report.images[pair.name] = ImageContent(size)
    if pixels is not False:
        _check_labels(maps, report)
    return report


# --- Files ---


@dataclass
class _Pair:
    """An image and its label map, and their content."""

    name: str
    """Path of the image, relative to its folder."""
    image_path: str
    label_path: str
    image: Header | str | None = None
    label: Header | str | None = None
    areas: dict[int, int] = field(default_factory=dict)
    """Label -> number of pixels."""

    @property
    def bits(self) -> int:
        """8 or 16, or 0 if the file is not a label map."""
        mode = self.label.mode if isinstance(self.label, Header) else ""
        return 16 if mode.startswith("I;16") else _BITS.get(mode, 0)


def _pair(image_root: str, label_root: str, report: Report) -> list[_Pair]:
    """Pair the files; add those without a counterpart to `report`."""
    for root, what in ((image_root, "images"), (label_root, "label maps")):
        if not os.path.isdir(root):
            report.add(f"folder of {what} not found", True, root)
    if report.problems:
        return []
    images = _by_stem(image_root, IMAGE_SUFFIXES, "images", report)
    labels = _by_stem(label_root, LABEL_SUFFIXES, "label maps", report)
    report.num_images = len(images)
    if images and labels:
        hint = _suffix_hint(list(images), list(labels))
        for stem in sorted(images.keys() - labels.keys()):
            detail = f"{label_root} has no {some_of([stem + s for s in LABEL_SUFFIXES])}"
            report.add(f"image without label map{hint}", True, detail, file_name=images[stem])
        for stem in sorted(labels.keys() - images.keys()):
            detail = os.path.join(label_root, labels[stem])
            report.add(f"label map without image{hint}", True, detail)
    return [
        _Pair(name, os.path.join(image_root, name), os.path.join(label_root, labels[stem]))
        for stem, name in sorted(images.items())
        if stem in labels
    ]


def _by_stem(root: str, suffixes: Sequence[str], what: str, report: Report) -> dict[str, str]:
    """Call `files_by_stem` and add its problems to `report`."""
    found, twins = files_by_stem(root, suffixes)
    for one, other in twins:
        report.add(f"two {what} of the same name", True, f"{root}: {one} and {other}")
    if not found:
        detail = f"{root} has no file that ends in {', '.join(suffixes)}"
        others = Counter(os.path.splitext(name)[1].lower() for name in walk_files(root))
        if others:
            detail += f"; its files end in {some_of([repr(s) for s in others])}"
        if ".jpg" in others or ".jpeg" in others:
            detail += "; JPEG changes labels at borders of regions"
        report.add(f"no {what}", True, detail)
    return found


def _suffix_hint(images: Sequence[str], labels: Sequence[str]) -> str:
    """Return a hint if all names would match without their common ends, else an empty text."""
    image_end, label_end = _common_end(images), _common_end(labels)
    for ends in ((image_end, label_end), ("", label_end), (image_end, "")):
        stripped = [
            {name.removesuffix(end) for name in names}
            for names, end in zip((images, labels), ends, strict=True)
        ]
        if ends[0] != ends[1] and stripped[0] == stripped[1] != {""}:
            kinds = zip(("images", "label maps"), ends, strict=True)
            named = " and ".join(f"{end!r} from the names of {kind}" for kind, end in kinds if end)
            return f" (remove the end {named})"
    return ""


def _common_end(names: Sequence[str]) -> str:
    end = names[0]
    while not all(name.endswith(end) for name in names):
        end = end[1:]
    return end


def _read(pair: _Pair, decode: bool, labels: bool) -> _Pair:
    """Read the files of a pair and fill in their content.

    Args:
        pair: the files.
        decode: decode the image.
        labels: read the label map.
    """
    pair.image, pair.label = read_header(pair.image_path, decode), read_header(pair.label_path)
    if labels and pair.bits:
        try:
            values, counts = count_values(read_label_map(pair.label_path))
            pair.areas = dict(zip(values.tolist(), counts.tolist(), strict=True))
        except DatasetError as error:
            pair.label = str(error).removeprefix(f"{pair.label_path}: ")
    return pair


def _is_sound(pair: _Pair, report: Report) -> bool:
    """Return whether the labels can be compared with the classes; add problems to `report`."""
    image, label = pair.image, pair.label
    if not isinstance(image, Header):
        reason = image or "no such file"
        report.add("image file cannot be read", True, reason, file_name=pair.name)
    if not isinstance(label, Header):
        detail = f"{pair.label_path}: {label or 'no such file'}"
        report.add("label map cannot be read", True, detail, file_name=pair.name)
        return False
    if not pair.bits:
        detail = f"{pair.label_path} has pixels of mode {label.mode}"
        kind = f"label map of colours or fractions: {_WHAT_TO_DO}"
        report.add(kind, True, detail, file_name=pair.name)
        return False
    if isinstance(image, Header) and label.stored != image.upright:
        texts, sizes = (f"{pair.label_path} is", "the image"), (label.stored, image.upright)
        detail = size_difference(texts, sizes, image, "turn the label map too")
        report.add("label map of another size", True, detail, file_name=pair.name)
    return True


# --- Labels ---


def _ignore_label(maps: Sequence[_Pair], report: Report) -> int:
    """Return the label of pixels without a class, which the user did not give."""
    examples = {pair.bits: pair.label_path for pair in maps}
    if len(examples) > 1:
        detail = f"such as {examples[8]} and {examples[16]}: which label stands for no class? "
        report.add("label maps of 8 and of 16 bits", True, detail + "Give it: --ignore-label N")
    return _IGNORE_LABELS[min(examples, default=8)]


def _check_labels(maps: Sequence[_Pair], report: Report) -> None:
    """Compare the labels with the classes."""
    num_classes, ignored = len(report.classes), report.classes.ignore_label
    strange: Counter[int] = Counter()
    for pair in maps:
        for label, area in pair.areas.items():
            if 0 <= label < num_classes and label != ignored:
                report.num_per_category[label] += area
                report.images[pair.name].units[label] += area
            elif label != ignored:
                strange[label] += area
    hint = _numbering_hint(strange, report) if strange else ""
    for pair in maps:
        labels = pair.areas.keys() - {ignored}
        if not labels:
            report.num_empty_images += 1
            detail = f"all of {pair.label_path} is {ignored}, the label to ignore"
            report.add("label map without labels", False, detail, file_name=pair.name)
        if wrong := sorted(labels & strange.keys()):
            some = some_of([f"{label} ({pair.areas[label]} pixels)" for label in wrong])
            kind = f"label without a class: there are {num_classes}, 0 to {num_classes - 1}{hint}"
            report.add(kind, True, f"{pair.label_path} has {some}", file_name=pair.name)
    absent = [name for i, name in enumerate(report.classes.names) if not report.num_per_category[i]]
    if absent and maps:
        report.add("class without pixels", False, ", ".join(absent))


def _numbering_hint(strange: Counter[int], report: Report) -> str:
    """Return a hint at the meaning of labels without a class, or an empty text."""
    num_classes, ignored = len(report.classes), report.classes.ignore_label
    if len(strange) > 1:
        return ""
    label = next(iter(strange))
    hint = f"; if {label} stands for no class, add --ignore-label {label}"
    if label == num_classes:
        hint += f"; if classes are numbered from 1, number them from 0 and use {ignored} for none"
    return hint
