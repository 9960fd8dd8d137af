"""The schema of files in COCO's formats: annotations, panoptic segments, and results of both.

A reader names the parts and fields that it uses. The values of these fields are then of the types
and ranges below, and ids are unique. Other fields may hold anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from mask2former_runtime.files import read_json

from ..structures import Classes
from .errors import DatasetError
from .segmentation import is_whole_number

_MAX_ID = (1 << 63) - 1
_MAX_NUMBER = 1e15


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether `value` is a number that can be a size or an area in pixels."""
    is_real = is_whole_number(value) or isinstance(value, float)
    return is_real and -_MAX_NUMBER <= value <= _MAX_NUMBER


def is_id(value: Any) -> bool:
    """Return whether `value` can be the id of an image or an annotation: text or 64 bits."""
    return isinstance(value, str) or (is_whole_number(value) and -_MAX_ID <= value <= _MAX_ID)


def is_category_id(value: Any) -> TypeGuard[int]:
    """Return whether `value` is a whole number that evaluators can store as a category id."""
    return is_whole_number(value) and 0 <= value <= _MAX_ID


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether `value` is a text that is not empty and can be printed and written."""
    # JSON texts can hold halves of a character, and the character that ends texts in C.
    return isinstance(value, str) and value != "" and re.search("[\ud800-\udfff\0]", value) is None


def is_file_name(value: Any) -> TypeGuard[str]:
    """Return whether `value` is a text that can be the name of a file, in one line."""
    return is_text(value) and re.search("[\0-\x1f\x7f-\x9f\u2028\u2029]", value) is None


def is_box(value: Any) -> TypeGuard[Sequence[float]]:
    """Return whether `value` is a list of four numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(is_number, value))


def is_color(value: Any) -> TypeGuard[Sequence[int]]:
    """Return whether `value` is red, green and blue, each 0 to 255."""
    is_triple = isinstance(value, (list, tuple)) and len(value) == 3
    return is_triple and all(is_whole_number(v) and 0 <= v <= 255 for v in value)


def keep_images(content: Mapping[str, Any], names: Collection[str] | None) -> dict[str, Any]:
    """Return a file's content with only some images and their annotations.

    Args:
        content: of a file of annotations or panoptic segments.
        names: the ``file_name`` of the images; None keeps all.
    """
    if names is None:
        return dict(content)
    images = [image for image in content["images"] if image["file_name"] in names]
    kept = {image["id"] for image in images}
    parts = {"images": images}
    if "annotations" in content:
        parts["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    return {**content, **parts}


class _Rule(NamedTuple):
    """What the value of a field must be."""

    text: str
    holds: Callable[[Any], bool]


_ID = _Rule("a text or a whole number of at most 64 bits", is_id)
_CATEGORY_ID = _Rule("a whole number from 0, of at most 64 bits", is_category_id)
_TEXT = _Rule("a text that is not empty", is_text)
_SIDE = _Rule("a whole number above 0", lambda v: is_category_id(v) and v > 0)
_FLAG = _Rule("0 or 1", lambda v: isinstance(v, (int, float)) and v in (0, 1))
_RULES = {
    "id": _ID,
    "image_id": _ID,
    "category_id": _CATEGORY_ID,
    "file_name": _Rule("a text that is not empty, without control characters", is_file_name),
    "name": _TEXT,
    "height": _SIDE,
    "width": _SIDE,
    "iscrowd": _FLAG,
    "isthing": _FLAG,
    "bbox": _Rule("four numbers", is_box),
    "area": _Rule("a number from 0", lambda v: is_number(v) and v >= 0),
    "score": _Rule("a number", is_number),
    "segmentation": _Rule("a list of polygons or an RLE", lambda v: isinstance(v, (list, dict))),
    "segments_info": _Rule("a list", lambda v: isinstance(v, list)),
}
# Ids of segments are colours in a PNG file.
_OF_PART = {
    "categories": {"id": _CATEGORY_ID},
    "segments_info": {"id": _Rule("a whole number", lambda v: is_id(v) and is_whole_number(v))},
}


def read_coco(path: str | os.PathLike[str], parts: Mapping[str, str]) -> dict[str, Any]:
    """Read a JSON file of lists of records, and check the fields that `parts` name.

    Args:
        path: the file.
        parts: the fields of each part, such as ``{"images": "id file_name height?"}``. A field or
            a part that ends in "?" may be missing, and such a field may be null. The fields of
            ``segments_info`` are given like those of a part.

    Raises:
        DatasetError: the file cannot be read, lacks a part or a field, or has a value of another
            kind; the message names the record.
    """
    return check_coco(read_json(path, DatasetError), parts, os.fspath(path))


def read_results(path: str | os.PathLike[str], fields: str) -> list[dict[str, Any]]:
    """Read a JSON file that holds a list of results, and check `fields`; see `read_coco`."""
    content = read_json(path, DatasetError)
    if not isinstance(content, list):
        raise DatasetError(f"{path}: not COCO results: it holds no list")
    check_records(content, fields, f"{path}: results")
    return content


def check_coco(content: Any, parts: Mapping[str, str], path: str) -> dict[str, Any]:
    """Return the content of a JSON file after the checks of `read_coco`."""
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DatasetError(f"{path}: not in COCO's format: it holds a {kind}, not an object")
    for part, fields in parts.items():
        name = part.rstrip("?")
        if name == "segments_info" or (part.endswith("?") and name not in content):
            continue
        if not isinstance(content.get(name), list):
            raise DatasetError(f"{path}: not in COCO's format: there is no list {name!r}")
        check_records(content[name], fields, f"{path}: {name}")
        if "segments_info" in parts and "segments_info" in fields:
            for number, record in enumerate(content[name]):
                where = f"{path}: {name}[{number}] segments_info"
                check_records(record.get("segments_info") or (), parts["segments_info"], where)
    return content


def check_records(records: Sequence[Any], fields: str, where: str) -> None:
    """Raise `DatasetError` unless all records have these fields, with values of the right kind.

    Args:
        records: the records.
        fields: see `read_coco`. Where ``id`` is a field, no two records have the same.
        where: the file and the list, for messages. Its last word is the name of the part.
    """
    rules = _RULES | _OF_PART.get(where.split()[-1], {})
    wanted = [(key.rstrip("?"), key.endswith("?")) for key in fields.split()]
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise DatasetError(f"{where}[{number}] is not an object: {record!r:.100}")
        for key, optional in wanted:
            value = record.get(key)
            if value is None and optional:
                continue
            if key not in record:
                raise DatasetError(f"{where}[{number}] has no {key!r}: {record!r:.200}")
            if not rules[key].holds(value):
                raise DatasetError(
                    f"{where}[{number}]: {key!r} is {value!r:.100}, but must be {rules[key].text}"
                )
    if ("id", False) in wanted:
        for one, other in _repeated([record["id"] for record in records]):
            raise DatasetError(
                f"{where}[{one}] and [{other}] have the same id, {records[one]['id']!r:.50}"
            )


def _repeated(ids: Sequence[Any]) -> Iterator[tuple[int, int]]:
    first: dict[Any, int] = {}
    for number, value in enumerate(ids):
        if first.setdefault(value, number) != number:
            yield first[value], number


def classes_of(categories: Sequence[Mapping[str, Any]]) -> Classes:
    """Return the classes of checked categories, in the same order, without unusable colours."""
    return Classes.from_categories(
        [
            {key: value for key, value in record.items() if key != "color" or is_color(value)}
            for record in categories
        ]
    )
