"""Checking a COCO panoptic JSON, its PNG files and its images, to list all mistakes at once.

The id of a segment is R + 256 G + 65536 B of its pixels in the PNG; 0 is void.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mask2former_runtime.text import some_of

from ...utils.size import Size
from ..coco_format import is_category_id, is_file_name, is_id
from ..errors import DatasetError
from ..label_maps import read_panoptic_png
from ..segmentation import is_whole_number
from .coco_file import check_categories, check_images, load_coco
from .image_files import (
    CaseHints,
    check_image_files,
    count_values,
    map_files,
    read_header,
    record_size,
    size_difference,
)
from .report import Report

_MAX_ID = (1 << 24) - 1


def check_panoptic_json(
    json_file: str,
    image_root: str,
    panoptic_root: str,
    *,
    evaluated: bool = True,
    pixels: bool | None = None,
) -> Report:
    """Check a COCO panoptic file, its images and its PNG files.

    Errors would stop training or evaluation, or silently change what the model learns. Warnings
    are mistakes that do neither.

    Args:
        json_file: COCO panoptic annotations.
        image_root: folder that ``file_name`` of ``images`` is relative to.
        panoptic_root: folder that ``file_name`` of ``annotations`` is relative to.
        evaluated: whether the data set is for evaluation.
        pixels: whether to decode images and PNG files, or to read only their headers. None decodes
            the PNG files, which takes some milliseconds each, and the images if this takes less
            than about half a minute.

    Returns:
        The report. Bad data never raises an exception.
    """
    report = Report(str(json_file), unit="segments")
    content = load_coco(str(json_file), report)
    if content is None:
        return report
    if not any("segments_info" in a for a in content["annotations"]) and content["annotations"]:
        report.add(
            "not a COCO panoptic file",
            True,
            "no annotation has 'segments_info'"
            + ("; this is a COCO instance file" if "bbox" in content["annotations"][0] else ""),
        )
        return report
    images = check_images(content["images"], report)
    check_categories(content["categories"], report)
    _check_kinds(content["categories"], report)
    maps = _AnnotationChecker(report, images).check_all(content["annotations"])
    check_image_files(images, str(image_root), report, pixels)
    _check_png_files(maps, str(panoptic_root), report, evaluated, pixels is not False)
    return report


def _check_kinds(records: list[dict[str, Any]], report: Report) -> None:
    """Check the fields that only panoptic categories have."""
    for record in records:
        category_id, where = record.get("id"), f"category id {record.get('id')!r}"
        if not isinstance(category_id, int):
            continue  # the report has this already
        if "isthing" not in record:
            detail = f"{where}, {record.get('name')!r}: 1 for things, whose objects are separate, "
            detail += "or 0 for stuff"
            report.add("category without isthing", True, detail)
        elif record["isthing"] not in (0, 1):
            report.add("isthing is neither 0 nor 1", True, f"{where}: {record['isthing']!r}")


@dataclass
class _Map:
    """One PNG file and its description in the JSON."""

    file_name: str
    where: dict[str, Any]
    """Keyword arguments of `Report.add`."""
    size: Size | None
    """(height, width) of the image, if they are usable."""
    segments: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Segments with a usable id."""


class _AnnotationChecker:
    """Checks annotations against the images and categories of the file.

    Args:
        report: where problems are added; it knows the categories.
        images: image id -> record.
    """

    def __init__(self, report: Report, images: dict[Any, dict[str, Any]]):
        self.report = report
        self.images = images

    def check_all(self, annotations: list[dict[str, Any]]) -> list[_Map]:
        report = self.report
        if not annotations:
            report.add("no annotations", True, "'annotations' is empty")
        maps: dict[Any, _Map] = {}
        for number, annotation in enumerate(annotations):
            image_id = annotation.get("image_id")
            image = self.images.get(image_id) if is_id(image_id) else None
            where = {"file_name": image["file_name"] if image else None, "image_id": image_id}
            if image is None:
                detail = f"number {number} of 'annotations': no image has this id"
                report.add("annotation of an unknown image", True, detail, **where)
                continue
            if image_id in maps:
                detail = "all segments of an image belong to one annotation"
                report.add("image annotated twice", True, detail, **where)
                continue
            name, segments = annotation.get("file_name"), annotation.get("segments_info")
            if not is_file_name(name):
                report.add("annotation without file_name", True, f"{name!r}", **where)
                name = ""
            maps[image_id] = _Map(name, where, record_size(image))
            if isinstance(segments, list) and all(isinstance(s, dict) for s in segments):
                self._check_segments(segments, maps[image_id])
            else:
                detail = "'segments_info' must be a list of objects"
                report.add("annotation without segments_info", True, detail, **where)
        self._check_missing(maps)
        return [entry for entry in maps.values() if entry.file_name]

    def _check_missing(self, maps: dict[Any, _Map]) -> None:
        for image_id, image in self.images.items():
            if image_id not in maps:
                detail = "annotate it, without segments if it is all void, or remove the image"
                where = {"file_name": image["file_name"], "image_id": image_id}
                self.report.add("image without annotation", True, detail, **where)
        self.report.num_empty_images = sum(not entry.segments for entry in maps.values())

    def _check_segments(self, segments: list[dict[str, Any]], entry: _Map) -> None:
        report = self.report
        report.num_annotations += len(segments)
        for number, segment in enumerate(segments):
            segment_id, category_id = segment.get("id"), segment.get("category_id")
            where = {**entry.where, "segment_id": segment_id}
            if not is_whole_number(segment_id) or not 0 < segment_id <= _MAX_ID:
                detail = (
                    f"number {number} of 'segments_info' has the id {segment_id!r:.50}; ids are "
                )
                detail += f"whole numbers from 1 to {_MAX_ID}, 0 is void"
                report.add("segment without a usable id", True, detail, **where)
                continue
            if segment_id in entry.segments:
                report.add("segment id used twice", True, "ids are unique per image", **where)
                continue
            entry.segments[segment_id] = segment
            if not is_category_id(category_id) or category_id not in report.classes.index:
                detail = f"category_id is {category_id!r:.50}; 'categories' has no such id"
                report.add("segment of an unknown category", True, detail, **where)
            elif not segment.get("iscrowd"):
                report.num_per_category[category_id] += 1
                report.images[entry.where["file_name"]].units[category_id] += 1
            if segment.get("iscrowd", 0) not in (0, 1):
                detail = f"{segment['iscrowd']!r:.50}"
                report.add("iscrowd is neither 0 nor 1", True, detail, **where)


@dataclass
class _Png:
    """The content of a PNG file."""

    size: Size
    mode: str
    format: str
    areas: dict[int, int] | None = None
    """Segment id -> number of pixels, without void; None if the pixels were not read."""


def _read(path: str, pixels: bool) -> _Png | str | None:
    """Return the content of the file, or why it cannot be read, or None if it is missing."""
    header = read_header(path)
    if header is None or isinstance(header, str):
        return header
    found = _Png(header.stored, header.mode, header.format)
    if pixels:
        try:
            ids, counts = count_values(read_panoptic_png(path))
        except DatasetError as error:
            return str(error).removeprefix(f"{path}: ")
        found.areas = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        found.areas.pop(0, None)
    return found


def _check_png_files(
    maps: list[_Map], root: str, report: Report, evaluated: bool, pixels: bool
) -> None:
    """Add the problems of the PNG files to `report`."""
    if not os.path.isdir(root):
        report.add("folder of panoptic PNG files not found", True, root)
        return
    uses = Counter(entry.file_name for entry in maps)
    for name in [name for name, count in uses.items() if count > 1]:
        report.add("PNG file of several images", True, f"{uses[name]} images have {name}")
    hint = CaseHints()
    paths = [os.path.join(root, entry.file_name) for entry in maps]
    results = map_files(lambda path: _read(path, pixels), paths, "Checking panoptic PNG files")
    for entry, path, png in zip(maps, paths, results, strict=True):
        if png is None:
            report.add("PNG file not found", True, path + hint(path), **entry.where)
        elif isinstance(png, str):
            report.add("PNG file cannot be read", True, f"{path}: {png}", **entry.where)
        elif entry.size is not None and png.size != entry.size:
            texts = f"{entry.file_name} is", "the JSON says"
            detail = size_difference(texts, (png.size, entry.size))
            report.add("PNG size differs", True, detail, **entry.where)
        elif png.areas is not None:
            _check_ids(entry, png, png.areas, report, evaluated)


def _check_ids(
    entry: _Map, png: _Png, areas: dict[int, int], report: Report, evaluated: bool
) -> None:
    """Compare the ids and areas in a PNG with those in the JSON."""
    unknown = sorted(areas.keys() - entry.segments.keys())
    absent = sorted(entry.segments.keys() - areas.keys())
    encoded = png.mode in ("RGB", "RGBA") and png.format != "JPEG"
    if (unknown or absent) and not encoded:
        detail = (
            f"{entry.file_name} is a {png.format} file with pixels of mode {png.mode}; segment ids "
            "are R + 256 G + 65536 B of a PNG with 8-bit RGB"
        )
        report.add("panoptic map is not an RGB PNG", True, detail, **entry.where)
        return
    if unknown:
        some = some_of([f"{i} ({areas[i]} pixels)" for i in unknown])
        detail = f"{entry.file_name} has ids that 'segments_info' lacks: {some}"
        swapped = {_swapped(i) for i in entry.segments}
        if unknown and absent and set(unknown) <= swapped:
            detail += "; red and blue look swapped: ids are R + 256 G + 65536 B"
        report.add("pixels of unknown segments", True, detail, **entry.where)
    for segment_id in absent:
        detail = f"{entry.file_name} has no pixel of this id"
        where = {**entry.where, "segment_id": segment_id}
        # Training leaves the segment out; panoptic quality counts it as missed.
        report.add("segment without pixels", evaluated, detail, **where)
    content = report.images[entry.where["file_name"]]
    for segment_id in areas.keys() & entry.segments.keys():
        if _is_thing(entry.segments[segment_id], report):
            content.areas.append(areas[segment_id])
        area = entry.segments[segment_id].get("area", areas[segment_id])
        if area != areas[segment_id]:
            detail = f"'area' is {area!r:.50}, {entry.file_name} has {areas[segment_id]} pixels"
            where = {**entry.where, "segment_id": segment_id}
            report.add("segment area differs", False, detail, **where)


def _is_thing(segment: dict[str, Any], report: Report) -> bool:
    """Return whether a segment is an object, and not stuff or a crowd."""
    category_id, classes = segment.get("category_id"), report.classes
    if segment.get("iscrowd") or not is_category_id(category_id):
        return False
    return category_id in classes.index and classes.is_thing(classes.index[category_id])


def _swapped(segment_id: int) -> int:
    """Return the id with red and blue swapped."""
    return segment_id & 0xFF00 | segment_id >> 16 | (segment_id & 0xFF) << 16
