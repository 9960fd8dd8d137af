"""What the OpenAPI description says beyond the types of parameters."""

from __future__ import annotations

from typing import Any

DESCRIPTION = """\
Segments images with a Mask2Former model.

`POST /predict` takes an image, as the body or in a form. Errors are JSON, `{"detail": "one line"}`.
If the server was started with a token, send it as `Authorization: Bearer TOKEN`.
"""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_OBJECT = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "description": "from 1, unique in the image"},
        "label": {"type": "integer", "description": "index of the class"},
        "category_id": {"type": "integer", "description": "id of the class in its data set"},
        "name": {"type": "string", "description": "of the class"},
        "score": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "isthing": {"type": "boolean"},
        "area": {"type": "integer", "description": "pixels"},
        "box": {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 4,
            "maxItems": 4,
            "description": "left, top, right and bottom in pixels; the last two are exclusive",
        },
        "color": {"type": "string", "description": "#rrggbb"},
        "segmentation": {
            "description": "COCO's compressed RLE, or polygons (x0, y0, ...) without holes",
            "oneOf": [
                {
                    "type": "object",
                    "properties": {
                        "size": {"type": "array", "items": {"type": "integer"}},
                        "counts": {"type": "string"},
                    },
                },
                {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            ],
        },
    },
}
_FOUND = {
    "type": "object",
    "properties": {
        "task": {"type": "string", "enum": ["panoptic", "instance", "semantic"]},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "objects": {"type": "array", "items": _OBJECT},
    },
}

PREDICT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "string", "format": "binary"}},
            }
        },
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        "application/json": {
            "schema": {
                "type": "object",
                "description": "what Label Studio sends",
                "required": ["tasks", "label_config"],
                "properties": {
                    "tasks": {"type": "array", "items": {"type": "object"}},
                    "label_config": {"type": "string"},
                },
            }
        },
    },
}

ERRORS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "what was found",
        "content": {"application/json": {"schema": _FOUND}, "image/png": _BINARY},
    },
    **{
        status: {"description": text}
        for status, text in (
            (400, "the form or the JSON cannot be read"),
            (401, "the token is missing or wrong"),
            (403, "the request comes from another site, or names an image elsewhere"),
            (408, "the body did not arrive in time"),
            (413, "the body is too large, or the image has too many pixels"),
            (415, "the body is neither an image nor a form"),
            (422, "the image or a parameter cannot be used"),
            (502, "Label Studio does not give the image of a task"),
            (503, "the server is busy: try again after the seconds in Retry-After"),
        )
    },
}
