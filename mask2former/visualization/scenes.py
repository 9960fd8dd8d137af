"""What an image shows, true or predicted, in a form that can be drawn and compared.

Shapes:
    H, W: height and width of the image, N: number of instances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ..data.label_maps import read_label_map, read_panoptic_png
from ..data.segment_labels import semantic_labels
from ..data.segmentation import to_rle
from ..structures import Classes
from ..utils.text import counted
from .colors import Color, palette_color
from .instances import draw_instances
from .regions import draw_panoptic, draw_semantic

# A prediction and an object of at least this IoU have the same colour.
_SAME = 0.5


@dataclass(frozen=True)
class InstanceScene:
    """Instances that may overlap."""

    masks: Sequence[np.ndarray]
    """N masks (H, W) bool, as an array or another sequence."""
    categories: Sequence[int]
    scores: Sequence[float] | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def draw(
        self,
        image: np.ndarray,
        classes: Classes,
        colors: Mapping[int, Color] | None = None,
        *,
        by_class: bool = False,
    ) -> Image.Image:
        """Draw the scene on an RGB image (H, W, 3).

        Args:
            image: uint8.
            classes: names and colours.
            colors: by position in the scene; by default those of the palette.
            by_class: draw all objects of a class in one colour, which stays the same over frames.
        """
        labels = [classes.names[category] for category in self.categories]
        if self.scores is not None:
            labels = [f"{n} {s:.0%}" for n, s in zip(labels, self.scores, strict=True)]
        if colors is None:
            colors = {i: palette_color(c if by_class else i) for i, c in enumerate(self.categories)}
        return draw_instances(image, self.masks, labels, [colors[i] for i in range(len(self))])

    def summary(self, classes: Classes) -> str:
        """Return the number of instances."""
        return counted(len(self), "instance")


class RunLengthMasks(Sequence[np.ndarray]):
    """Masks that are decoded one at a time, on access: together they may take gigabytes.

    Args:
        rles: compressed COCO RLEs.
    """

    def __init__(self, rles: Sequence[Mapping[str, Any]]):
        self.rles = rles

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Any) -> Any:
        return mask_util.decode(self.rles[index]).astype(bool)


@dataclass(frozen=True)
class PanopticScene:
    """Segments that do not overlap."""

    ids: np.ndarray
    """(H, W) integers."""
    segments: Sequence[Mapping[str, Any]]
    """`id`, `category_id` and `isthing` of each segment."""

    def __len__(self) -> int:
        return len(self.segments)

    def draw(
        self,
        image: np.ndarray,
        classes: Classes,
        colors: Mapping[int, Color] | None = None,
        *,
        by_class: bool = False,
    ) -> Image.Image:
        """Draw the scene on an RGB image (H, W, 3); see `InstanceScene.draw`."""
        thing_colors = None
        if colors is not None:
            thing_colors = {segment["id"]: colors[i] for i, segment in enumerate(self.segments)}
        return draw_panoptic(
            image, self.ids, self.segments, classes.names, None, classes.colors,
            by_class=by_class, thing_colors=thing_colors,
        )  # fmt: skip

    def summary(self, classes: Classes) -> str:
        """Return the numbers of things and of stuff segments."""
        things = sum(segment["isthing"] for segment in self.segments)
        return f"{counted(things, 'thing')}, {len(self) - things} stuff"


@dataclass(frozen=True)
class SemanticScene:
    """The class of each pixel."""

    labels: np.ndarray
    """(H, W) integers."""

    def __len__(self) -> int:
        return 0  # nothing here needs a colour of its own

    def draw(
        self,
        image: np.ndarray,
        classes: Classes,
        colors: Mapping[int, Color] | None = None,
        *,
        by_class: bool = False,
    ) -> Image.Image:
        """Draw the scene on an RGB image (H, W, 3); see `InstanceScene.draw`."""
        return draw_semantic(image, self.labels, classes.names, classes.colors, classes.void_label)

    def summary(self, classes: Classes) -> str:
        """Return the number of classes, and the largest class with its share of the pixels."""
        labels, pixels = np.unique(self.labels, return_counts=True)
        known = (labels >= 0) & (labels < len(classes)) & (labels != classes.ignore_label)
        labels, pixels = labels[known], pixels[known]
        if not len(labels):
            return "0 classes"
        largest = int(pixels.argmax())
        share = f"{pixels[largest] / self.labels.size:.0%} {classes.names[labels[largest]]}"
        return f"{counted(len(labels), 'class', 'classes')}, {share}"


Scene = InstanceScene | PanopticScene | SemanticScene


def true_scene(task: str, record: Mapping[str, Any], classes: Classes) -> Scene | None:
    """Read the ground truth of a dataset dict.

    Args:
        task: "instance", "panoptic" or "semantic". Panoptic ground truth also serves the other two.
        record: Detectron2's dataset dict.
        classes: the classes of the data set.

    Returns:
        The scene, or None if the dict has no ground truth, as in test sets.

    Raises:
        ValueError: a mask is malformed, or a file cannot be read (`DatasetError`).
    """
    if task == "semantic" and "sem_seg_file_name" in record:
        return SemanticScene(read_label_map(record["sem_seg_file_name"]))
    if task == "instance" and "annotations" in record:
        found = [a for a in record["annotations"] if a.get("segmentation")]
        size = record["height"], record["width"]
        rles = [to_rle(a["segmentation"], size) for a in found]
        return InstanceScene(RunLengthMasks(rles), [a["category_id"] for a in found])
    if "pan_seg_file_name" not in record or "segments_info" not in record:
        return None
    ids, segments = read_panoptic_png(record["pan_seg_file_name"]), record["segments_info"]
    if task == "semantic":
        return SemanticScene(
            semantic_labels(
                ids, segments, 255 if classes.ignore_label is None else classes.ignore_label
            )
        )
    if task == "panoptic":
        return PanopticScene(ids, segments)
    things = [segment for segment in segments if segment["isthing"]]
    rles = [mask_util.encode(np.asfortranarray(ids == thing["id"])) for thing in things]
    return InstanceScene(RunLengthMasks(rles), [thing["category_id"] for thing in things])


def shared_colors(
    truth: Scene | None, prediction: Scene
) -> tuple[dict[int, Color], dict[int, Color]]:
    """Choose colours for two scenes, so that a prediction has the colour of the object it shows.

    A prediction shows an object if both have the same class and their IoU is at least 0.5.

    Returns:
        The colours of `truth` and of `prediction`, each by position in the scene.
    """
    pairs: dict[int, int] = {}
    if isinstance(truth, InstanceScene) and isinstance(prediction, InstanceScene):
        pairs = _matches(_instance_overlaps(truth, prediction), truth, prediction)
    elif isinstance(truth, PanopticScene) and isinstance(prediction, PanopticScene):
        pairs = _matches(_segment_overlaps(truth, prediction), truth, prediction)
    number = 0 if truth is None else len(truth)
    own = {i: palette_color(i) for i in range(number)}
    others = {}
    for i in range(len(prediction)):
        if i not in pairs:
            number += 1
        others[i] = palette_color(pairs.get(i, number - 1))
    return own, others


def _matches(
    overlaps: np.ndarray,
    truth: InstanceScene | PanopticScene,
    prediction: InstanceScene | PanopticScene,
) -> dict[int, int]:
    """Match predictions to objects of the same class, the largest overlaps first.

    Args:
        overlaps: IoU of each prediction (rows) with each object (columns).
        truth: the objects.
        prediction: the predictions.

    Returns:
        The position of the object, by the position of the prediction.
    """
    classes = [np.array(_categories(scene), int) for scene in (prediction, truth)]
    overlaps = np.where(classes[0][:, None] == classes[1], overlaps, 0)
    pairs: dict[int, int] = {}
    while overlaps.size and overlaps.max() >= _SAME:
        i, j = (int(v) for v in np.unravel_index(np.argmax(overlaps), overlaps.shape))
        pairs[i] = j
        overlaps[i], overlaps[:, j] = 0, 0
    return pairs


def _categories(scene: InstanceScene | PanopticScene) -> list[int]:
    if isinstance(scene, InstanceScene):
        return list(scene.categories)
    return [segment["category_id"] for segment in scene.segments]


def _instance_overlaps(truth: InstanceScene, prediction: InstanceScene) -> np.ndarray:
    if not len(truth) or not len(prediction):
        return np.zeros((len(prediction), len(truth)))
    rles = [
        scene.masks.rles
        if isinstance(scene.masks, RunLengthMasks)
        else [mask_util.encode(np.asfortranarray(mask)) for mask in scene.masks]
        for scene in (prediction, truth)
    ]
    return mask_util.iou(list(rles[0]), list(rles[1]), [0] * len(truth))


def _segment_overlaps(truth: PanopticScene, prediction: PanopticScene) -> np.ndarray:
    found = []
    for scene in (prediction, truth):
        table = np.zeros(max([int(scene.ids.max()), *(s["id"] for s in scene.segments)]) + 1, int)
        for i, segment in enumerate(scene.segments, start=1):
            table[segment["id"]] = i
        found.append(table[scene.ids])
    shape = len(prediction) + 1, len(truth) + 1
    shared = np.bincount(
        (found[0] * shape[1] + found[1]).reshape(-1), minlength=shape[0] * shape[1]
    )
    shared = shared.reshape(shape)
    union = shared.sum(1, keepdims=True) + shared.sum(0) - shared
    return (shared / union.clip(min=1))[1:, 1:]
