"""Predictions as the bytes of an answer."""

from __future__ import annotations

import io
import json
from typing import Any, Literal

import numpy as np
from PIL import Image

from mask2former_runtime.drawing.colors import shade_numbers
from mask2former_runtime.drawing.scenes import shades
from mask2former_runtime.polygons import polygon_area
from mask2former_runtime.prediction import Prediction

Format = Literal["rle", "polygons", "overlay", "labels"]

JSON_TYPE, PNG_TYPE = "application/json", "image/png"


def encode(found: Prediction, format: Format) -> tuple[bytes, str]:
    """Return a prediction in a format, and its content type."""
    if format in ("rle", "polygons"):
        value = as_json(found, polygons=format == "polygons")
        return json.dumps(value, separators=(",", ":")).encode(), JSON_TYPE
    return _png(found.plot() if format == "overlay" else label_map(found)), PNG_TYPE


def as_json(found: Prediction, *, polygons: bool = False) -> dict[str, Any]:
    """Return a prediction as JSON values.

    Returns:
        ``task``, ``width``, ``height``, and ``objects``: per object the entries of
        `Prediction.segments`, ``category_id``, ``color`` and ``segmentation``, COCO's compressed
        RLE or, if `polygons`, the outer outlines of its parts.
    """
    height, width = found.size
    records = found.to_coco()
    shapes: list[Any] = [record["segmentation"] for record in records]
    if polygons:
        shapes = [
            [part.reshape(-1).tolist() for part in parts if polygon_area(part) > 0]  # no holes
            for parts in found.polygons()
        ]
    objects = [
        {
            **segment,
            "category_id": record["category_id"],
            "color": color,
            "segmentation": shape,
        }
        for segment, record, color, shape in zip(
            found.segments, records, object_colors(found), shapes, strict=True
        )
    ]
    return {"task": found.task, "width": width, "height": height, "objects": objects}


def label_map(found: Prediction) -> Image.Image:
    """Return the class at each pixel as a grey image of 8 or 16 bits; `void_label` is no class."""
    void = found.classes.void_label
    labels = found.label_map
    filled = np.where(labels < 0, void, labels)
    return Image.fromarray(filled.astype(np.uint8 if void < 256 else np.uint16))


def object_colors(found: Prediction) -> list[str]:
    """Return the colour in which each object is drawn, as ``#rrggbb``."""
    labels = found.labels.tolist()
    colors = shades(labels, shade_numbers(labels), found.classes)
    return ["#{:02x}{:02x}{:02x}".format(*color) for color in colors]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
