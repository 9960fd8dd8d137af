"""Label Studio's contract for machine-learning backends.

Label Studio calls ``/setup`` when a project connects to the server, and sends tasks to
``/predict``. A task names its image; the label config of the project says in which entry, and which
kinds of region people draw.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask2former_runtime.polygons import mask_to_polygons, polygon_area
from mask2former_runtime.prediction import Prediction
from mask2former_runtime.text import one_line, some_of

from .brush import encode_brush
from .errors import RequestError

# The tags of regions, by what they hold: the best for masks first.
_CONTROLS = ("BrushLabels", "PolygonLabels", "RectangleLabels")
_MOST_CONFIG = 2**20
# Pixels between a mask and its polygon, so that people can move its corners.
_TOLERANCE = 1.0


@dataclass(frozen=True)
class Labelling:
    """How people label images in a project.

    Attributes:
        control: "BrushLabels", "PolygonLabels" or "RectangleLabels".
        from_name: the name of this tag.
        to_name: the name of the image's tag.
        entry: of a task's data, which holds the image.
        labels: the project's label for each name of a class, in lower case.
    """

    control: str
    from_name: str
    to_name: str
    entry: str
    labels: Mapping[str, str]

    @property
    def type(self) -> str:
        """The type of results."""
        return self.control.lower()


def read_label_config(text: object) -> Labelling:
    """Find in a project's label config how images are labelled.

    Raises:
        RequestError: 422, there is nothing that a model of masks can fill in.
    """
    if not isinstance(text, str) or not text.strip():
        raise RequestError(422, "the request has no label_config")
    if len(text) > _MOST_CONFIG or "<!" in text.replace("<!--", ""):
        raise RequestError(422, "the label_config is too long, or has a document type")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, UnicodeError) as error:  # a lone surrogate of JSON
        raise RequestError(422, f"the label_config is not XML: {error}") from error
    images = {
        image.get("name", ""): image.get("value", "").removeprefix("$")
        for image in root.iter("Image")
    }
    for kind in _CONTROLS:
        for control in root.iter(kind):
            to_name = control.get("toName", "")
            if to_name in images and control.get("name"):
                return Labelling(
                    kind, control.get("name", ""), to_name, images[to_name], _labels(control)
                )
    raise RequestError(
        422,
        f"the label_config has no {' or '.join(f'<{kind}>' for kind in _CONTROLS)} whose toName is "
        "an <Image>",
    )


def _labels(control: ElementTree.Element) -> dict[str, str]:
    """Return the label for each name of a class, which ``predicted_values`` may list."""
    labels: dict[str, str] = {}
    for label in control.iter("Label"):
        value = label.get("value", "")
        for name in (value, label.get("alias", ""), *label.get("predicted_values", "").split(",")):
            if name.strip():
                labels.setdefault(name.strip().casefold(), value)
    return labels


def image_of_task(task: object, labelling: Labelling) -> str:
    """Return where the image of a task is: an address or a ``data:`` URI.

    Raises:
        RequestError: 422, the task has none.
    """
    data = task.get("data") if isinstance(task, dict) else None
    value = data.get(labelling.entry) if isinstance(data, dict) else None
    if not isinstance(value, str) or not value:
        raise RequestError(422, f"a task has no text in data.{one_line(labelling.entry, 60)}")
    return value


def check_labels(labelling: Labelling, names: list[str]) -> None:
    """Raise `RequestError` (422) if a project has no label for any class of the model."""
    if not any(name.casefold() in labelling.labels for name in names):
        raise RequestError(
            422,
            f"the project's labels ({some_of(list(labelling.labels.values()))}) are none of the "
            f"model's classes ({some_of(names)}): rename them, or add predicted_values to them",
        )


def as_results(found: Prediction, labelling: Labelling, version: str) -> dict[str, Any]:
    """Return a prediction as Label Studio's prediction for one task.

    Objects without a label in the project are left out.
    """
    height, width = found.size
    common = {
        "from_name": labelling.from_name,
        "to_name": labelling.to_name,
        "type": labelling.type,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    results: list[dict[str, Any]] = []
    scores: list[float] = []
    for i, (name, score) in enumerate(zip(found.names, found.scores.tolist(), strict=True)):
        label = labelling.labels.get(name.casefold())
        if label is None:
            continue
        rated = {} if np.isnan(score) else {"score": score}
        scores += rated.values()
        for j, shape in enumerate(_shapes(found, i, labelling.control)):
            value = {**shape, labelling.type: [label]}
            results.append({"id": f"{found.ids[i]}-{j}", **common, "value": value, **rated})
    # Data managers sort tasks by it.
    mean = float(np.mean(scores)) if scores else 0.0
    return {"result": results, "score": mean, "model_version": version}


def _shapes(found: Prediction, i: int, control: str) -> list[dict[str, Any]]:
    """Return an object as the values of Label Studio's regions, in percent of the image."""
    if control == "BrushLabels":
        return [{"format": "rle", "rle": encode_brush(found.mask(i))}]
    height, width = found.size
    percent = 100 / np.array([width, height])
    if control == "PolygonLabels":
        parts = mask_to_polygons(found.mask(i), _TOLERANCE)
        outer = [part for part in parts if polygon_area(part) > 0]  # a region has no holes
        return [{"points": (part * percent).tolist(), "closed": True} for part in outer]
    x, y = found.boxes[i, :2] * percent
    w, h = (found.boxes[i, 2:] - found.boxes[i, :2]) * percent
    return [{"x": float(x), "y": float(y), "width": float(w), "height": float(h), "rotation": 0}]
