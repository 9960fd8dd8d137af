"""Writing LabelMe's files; see `formats.labelme`."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mask2former_runtime.files import write_json

from ..labelme import BACKGROUND, IGNORE
from .names import NO_OBJECT, line_problem, require_writable
from .objects import Annotation, SplitContent, Target, in_split, mask_of, usable


def write(splits: Sequence[SplitContent], target: Target) -> None:
    """Write a JSON file beside each image, and ``labels.txt``.

    Crowd regions get the label ``__ignore__``.

    Raises:
        DatasetError: the name of a class cannot be written.
    """
    names = splits[0].names
    require_writable(names, "labelme", _problem)
    for split in splits:
        for image, objects in split.images():
            place = in_split(split.split)
            path = target.copy_image(split.image_root, image["file_name"], place)
            shapes = []
            for group, (label, annotation) in enumerate(objects, start=1):
                name = IGNORE if annotation.get("iscrowd") else names[label]
                shapes += _shapes(name, group, annotation, image)
            content = {
                "version": "5.5.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": path.name,
                "imageData": None,
                "imageHeight": image["height"],
                "imageWidth": image["width"],
            }
            file = target.file_for(path, "", "", ".json")
            write_json(file, content, ensure_ascii=False, indent=1)
    target.file("labels.txt").write_text("\n".join([*names, ""]), encoding="utf-8")


def _problem(name: str) -> str | None:
    reserved = {IGNORE: "where it means a region that nobody annotated", BACKGROUND: NO_OBJECT}
    return reserved.get(name) or line_problem(name)


def _shapes(
    name: str, group: int, annotation: Annotation, image: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the shapes of an object: polygons, or a mask of an RLE."""
    segmentation = usable(annotation)
    common = {"label": name, "description": "", "flags": {}}
    if isinstance(segmentation, list):
        group_id = group if len(segmentation) > 1 else None
        return [
            {
                **common,
                "points": np.reshape(polygon, (-1, 2)).tolist(),
                "group_id": group_id,
                "shape_type": "polygon",
                "mask": None,
            }
            for polygon in segmentation
        ]
    mask = mask_of(annotation, image)
    if not mask.any():
        return []
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    (y0, y1), (x0, x1) = ((int(values[0]), int(values[-1])) for values in (rows, columns))
    buffer = io.BytesIO()
    Image.fromarray(mask[y0 : y1 + 1, x0 : x1 + 1]).save(buffer, format="PNG")
    return [
        {
            **common,
            "points": [[x0, y0], [x1, y1]],
            "group_id": None,
            "shape_type": "mask",
            "mask": base64.b64encode(buffer.getvalue()).decode(),
        }
    ]
