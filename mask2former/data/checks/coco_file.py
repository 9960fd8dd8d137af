"""Parts that the checks of COCO instance and panoptic files share."""

from __future__ import annotations

from typing import Any

from mask2former_runtime.files import is_special, read_json

from ..coco_format import classes_of, is_category_id, is_file_name, is_id, is_text
from ..errors import DatasetError
from .image_files import record_size
from .report import ImageContent, Report

_CHUNK = 1 << 22


def kind_of_json(json_file: str) -> str | None:
    """Return "panoptic" or "instance", depending on which key of a COCO file comes first.

    The file is not parsed, because COCO's files have hundreds of megabytes. One in which nothing is
    annotated is of the kind "instance".

    Returns:
        The kind, or None if the file has neither key or cannot be read.
    """
    keys = {b'"segments_info"': "panoptic", b'"segmentation"': "instance"}
    overlap = max(map(len, keys)) - 1
    if is_special(json_file):
        return None
    try:
        with open(json_file, "rb") as f:
            window, lists_annotations = b"", False
            while chunk := f.read(_CHUNK):
                window = window[-overlap:] + chunk
                found = {window.find(key): kind for key, kind in keys.items() if key in window}
                if found:
                    return found[min(found)]
                lists_annotations |= b'"annotations"' in window
            return "instance" if lists_annotations else None
    except OSError:
        pass  # the check will report it
    return None


def load_coco(json_file: str, report: Report) -> dict[str, Any] | None:
    """Read a file; return None if it lacks the lists of a COCO file, and add that to `report`."""
    try:
        content = read_json(json_file, DatasetError)
    except DatasetError as error:
        kind = "cannot be read" if "cannot be read" in str(error) else "is not JSON"
        report.add(f"annotation file {kind}", True, str(error))
        return None
    if not isinstance(content, dict):
        report.add(
            "not a COCO file", True, f"the file holds a {type(content).__name__}, not an object"
        )
        return None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            what = "is missing" if key not in content else "is not a list"
            report.add("not a COCO file", True, f"{key!r} {what}")
        elif not all(isinstance(record, dict) for record in content[key]):
            report.add("not a COCO file", True, f"{key!r} holds something that is not an object")
    return None if report.problems else content


def check_images(records: list[dict[str, Any]], report: Report) -> dict[Any, dict[str, Any]]:
    """Check the records of images; return image id -> record for those with an id and a name."""
    report.num_images = len(records)
    if not records:
        report.add("no images", True, "'images' is empty")
    images: dict[Any, dict[str, Any]] = {}
    names: dict[str, Any] = {}
    for number, record in enumerate(records):
        image_id, name = record.get("id"), record.get("file_name")
        if not is_id(image_id):
            detail = f"number {number} of 'images' has the id {image_id!r:.50}"
            report.add("image without a usable id", True, detail)
            continue
        if not is_file_name(name):
            report.add("image without file_name", True, f"{name!r}", image_id=image_id)
            continue
        where = {"file_name": name, "image_id": image_id}
        size = [record.get("width"), record.get("height")]
        if record_size(record) is None:
            detail = f"width and height are {size}; whole numbers above 0 are needed"
            report.add("image without a usable size", True, detail, **where)
        if image_id in images:
            detail = f"{images[image_id]['file_name']} has the same id"
            report.add("image id used twice", True, detail, **where)
        elif name in names:
            detail = f"image id {names[name]!r} has the same file"
            report.add("image file listed twice", False, detail, **where)
        images.setdefault(image_id, record)
        names.setdefault(name, image_id)
        report.images.setdefault(name, ImageContent(record_size(record)))
    return images


def check_categories(records: list[dict[str, Any]], report: Report) -> None:
    """Check the categories; put usable ones into `report.classes` in the order of their ids."""
    if not records:
        report.add("no categories", True, "'categories' is empty")
    usable: dict[int, dict[str, Any]] = {}
    ids_of_names: dict[str, int] = {}
    for number, record in enumerate(records):
        category_id, name = record.get("id"), record.get("name")
        if not is_category_id(category_id):
            detail = f"number {number} of 'categories', {name!r}, has the id {category_id!r:.50}"
            report.add("category without a whole number as id", True, detail)
            continue
        if not is_text(name):
            report.add("category without a name", True, f"category id {category_id}: {name!r}")
            continue
        if category_id in usable:
            detail = f"{category_id} is {usable[category_id]['name']!r} and {name!r}"
            report.add("category id used twice", True, detail)
            continue
        if name in ids_of_names:
            detail = f"{name!r} has the ids {ids_of_names[name]} and {category_id}"
            report.add("category name used twice", True, detail)
        usable[category_id] = record
        ids_of_names.setdefault(name, category_id)
    report.classes = classes_of([usable[i] for i in sorted(usable)])
