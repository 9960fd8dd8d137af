"""Checking a COCO instance JSON and its images before training, to list all mistakes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mask2former_runtime.polygons import polygon_area

from ...utils.progress import with_progress
from ..coco_format import is_box, is_category_id, is_id, is_number
from ..segmentation import checked_run_lengths, parse_polygon
from .coco_file import check_categories, check_images, load_coco
from .image_files import PROGRESS_AFTER, check_image_files, record_size
from .report import Report


def check_coco_json(
    json_file: str, image_root: str, *, evaluated: bool = True, pixels: bool | None = None
) -> Report:
    """Check a COCO instance file and the image files it names.

    Errors would stop training or evaluation, or silently change what the model learns. Warnings
    are mistakes that do neither.

    Args:
        json_file: COCO instance annotations.
        image_root: folder that ``file_name`` of the images is relative to.
        evaluated: whether the data set is for evaluation, which needs more fields than training.
        pixels: whether to decode the images, or to read only their headers; None decodes them if
            this takes less than about half a minute.

    Returns:
        The report. Bad data never raises an exception.
    """
    report = Report(str(json_file))
    content = load_coco(str(json_file), report)
    if content is None:
        return report
    if any("segments_info" in a for a in content["annotations"][:1]):
        report.add(
            "not a COCO instance file",
            True,
            "this is a COCO panoptic file ('segments_info'); instance annotations are needed",
        )
        return report
    check_coco_content(content, str(image_root), report, evaluated=evaluated, pixels=pixels)
    return report


def check_coco_content(
    content: Mapping[str, list[dict[str, Any]]],
    image_root: str,
    report: Report,
    *,
    evaluated: bool,
    pixels: bool | None,
    sources: Sequence[str] | None = None,
) -> None:
    """Check the content of a COCO instance file and the image files it names.

    Args:
        content: "images", "annotations" and "categories", lists of objects.
        image_root: see `check_coco_json`, and so are `evaluated` and `pixels`.
        report: where problems are added.
        evaluated: see there.
        pixels: see there.
        sources: file and line or object of each annotation, if they come from another format; they
            name it instead of its ids.
    """
    images = check_images(content["images"], report)
    check_categories(content["categories"], report)
    checker = _AnnotationChecker(report, images, evaluated, sources)
    checker.check_all(content["annotations"])
    check_image_files(images, image_root, report, pixels)


class _AnnotationChecker:
    """Checks annotations against the images and categories of the file.

    Args:
        report: where problems are added; it knows the categories.
        images: image id -> record.
        evaluated: see `check_coco_json`.
        sources: see `check_coco_content`.
    """

    def __init__(
        self,
        report: Report,
        images: dict[Any, dict[str, Any]],
        evaluated: bool,
        sources: Sequence[str] | None,
    ) -> None:
        self.report = report
        self.images = images
        self.evaluated = evaluated
        self.sources = sources
        self.where: dict[str, Any] = {}

    def check_all(self, annotations: list[dict[str, Any]]) -> None:
        report = self.report
        report.num_annotations = len(annotations)
        used_ids: set[Any] = set()
        used_images: set[Any] = set()
        steps = with_progress(
            annotations, "Checking annotations", unit="objects", scale=True, delay=PROGRESS_AFTER
        )
        for number, annotation in enumerate(steps):
            image_id, annotation_id = annotation.get("image_id"), annotation.get("id")
            image = self.images.get(image_id) if is_id(image_id) else None
            self.where = {
                "file_name": image["file_name"] if image else None,
                "image_id": image_id,
                "annotation_id": annotation_id,
            }
            if self.sources is not None:  # the ids are made up
                name = self.where["file_name"]
                self.where = {"file_name": name, "source": self.sources[number]}
            if not is_id(annotation_id):
                detail = f"number {number} of 'annotations' has the id {annotation_id!r}"
                self._error("annotation without a usable id", detail)
            elif annotation_id in used_ids:
                self._error("annotation id used twice", "ids must be unique within the file")
            else:
                used_ids.add(annotation_id)
            if annotation_id == 0 and self.evaluated:
                detail = "pycocotools takes id 0 for 'no match' and counts the object as missed"
                self._warning("annotation id 0", detail + "; number annotations from 1")
            self._check_category(annotation)
            if image is None:
                self._error("annotation of an unknown image", "no image has this id")
                continue
            used_images.add(image_id)
            self._check_flags(annotation)
            self._check_box(annotation, image)
            self._check_segmentation(annotation, image)
        report.num_empty_images = len(self.images) - len(used_images)
        if not annotations and not (self.sources is not None and report.num_errors):
            detail = "'annotations' is empty" if self.sources is None else "no image has an object"
            report.add("no annotations", True, detail)

    def _error(self, kind: str, detail: str) -> None:
        self.report.add(kind, True, detail, **self.where)

    def _warning(self, kind: str, detail: str) -> None:
        self.report.add(kind, False, detail, **self.where)

    def _check_category(self, annotation: dict[str, Any]) -> None:
        category_id = annotation.get("category_id")
        if not is_category_id(category_id) or category_id not in self.report.classes.index:
            detail = f"category_id is {category_id!r:.50}; 'categories' has no such id"
            self._error("annotation of an unknown category", detail)
        elif not annotation.get("iscrowd"):
            self.report.num_per_category[category_id] += 1
            if (content := self.report.images.get(self.where["file_name"])) is not None:
                content.units[category_id] += 1

    def _check_flags(self, annotation: dict[str, Any]) -> None:
        if annotation.get("ignore", 0) != 0:
            detail = "'ignore' is not supported by Detectron2; mark regions with iscrowd 1"
            self._error("annotation with 'ignore'", detail)
        if "area" in annotation and not (is_number(annotation["area"]) and annotation["area"] >= 0):
            detail = f"{annotation['area']!r:.50}"
            if annotation["area"] is None:
                self._warning("area is null", "evaluators that need it fail")
            else:
                self._error("area is not a number of pixels", detail)
        if annotation.get("iscrowd", 0) not in (0, 1):
            self._error("iscrowd is neither 0 nor 1", f"{annotation['iscrowd']!r:.50}")
        missing = [key for key in ("bbox", "area", "iscrowd") if key not in annotation]
        if missing and self.evaluated and self.sources is None:
            detail = f"without {' and '.join(missing)}, pycocotools fails; evaluating here works"
            self._warning("annotation without bbox, area or iscrowd", detail)

    def _check_box(self, annotation: dict[str, Any], image: dict[str, Any]) -> None:
        if annotation.get("bbox") is None:
            is_crowd = annotation.get("iscrowd", 0) != 0  # others need a segmentation anyway
            if is_crowd and not annotation.get("segmentation"):
                kind, detail = "crowd region without bbox and segmentation", "it has no place"
                self.report.add(kind, self.evaluated, detail, **self.where)
            return
        box = annotation["bbox"]
        if not is_box(box):
            self._error("bbox is not four numbers", f"{box!r:.100}")
            return
        x, y, w, h = box
        if w <= 0 or h <= 0:
            self._warning("bbox without area", f"{box}; boxes are used only in evaluation")
        elif record_size(image) is not None and (
            x + w > image["width"] + 1 or y + h > image["height"] + 1 or x < -1 or y < -1
        ):
            detail = f"{box}; COCO boxes are [x, y, width, height]"
            self._warning("bbox reaches beyond the image", detail)

    def _check_segmentation(self, annotation: dict[str, Any], image: dict[str, Any]) -> None:
        segmentation = annotation.get("segmentation")
        if (size := record_size(image)) is None:
            return  # the report has this with the image
        height, width = size
        if isinstance(segmentation, dict):
            try:
                runs = checked_run_lengths(segmentation, height, width)
            except ValueError as error:
                self._error("RLE does not decode", str(error))
                return
            if not runs[1::2].sum():
                self._error("mask is empty", "the RLE sets no pixel")
            self._add_area(annotation, runs[1::2].sum())
        elif isinstance(segmentation, list) and segmentation:
            if annotation.get("iscrowd") == 1:
                self._warning("crowd region with polygons", "COCO stores crowd regions as RLE")
            self._add_area(annotation, self._check_polygons(segmentation, height, width))
        elif segmentation in (None, [], ""):
            if annotation.get("iscrowd", 0) == 0:
                self._error("annotation without segmentation", "the model learns masks")
        else:
            detail = f"{type(segmentation).__name__}; a list of polygons or an RLE is needed"
            self._error("segmentation of the wrong type", detail)

    def _add_area(self, annotation: dict[str, Any], area: float) -> None:
        content = self.report.images.get(self.where["file_name"])
        if content is not None and area and not annotation.get("iscrowd"):
            content.areas.append(area)

    def _check_polygons(self, polygons: list[Any], height: int, width: int) -> float:
        """Return the sum of the areas of the polygons, in pixels; 0 if one is malformed."""
        ignored, area = [], 0.0
        for polygon in polygons:
            if isinstance(polygon, list) and len(polygon) < 6 and len(polygon) % 2 == 0:
                ignored.append(f"a polygon has {len(polygon)} coordinates; at least 6 are needed")
                continue
            try:
                points = parse_polygon(polygon, height, width)
            except ValueError as error:
                self._error("polygon is malformed", str(error))
                return 0.0
            area += abs(polygon_area(points))
            low, high = points.min(axis=0), points.max(axis=0)
            if (high <= 0).any() or (low >= (width, height)).any():
                ignored.append(
                    f"a polygon lies outside the {width}x{height} image: "
                    f"x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}"
                )
            elif (high == low).any():
                ignored.append("a polygon is a line")
        if len(ignored) == len(polygons):
            self._error("mask is empty", "; ".join(ignored[:3]))
        elif ignored:
            self._warning("polygon is ignored", "; ".join(ignored[:3]))
        return area
