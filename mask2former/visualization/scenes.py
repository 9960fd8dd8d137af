"""What an image shows, true or predicted, in a form that can be drawn and compared.

Shapes:
    H, W: height and width of the image, N: number of instances.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from .colors import Color, class_color, shade, shade_numbers
from .instances import draw_instances
from .regions import crowd_name, draw_panoptic, draw_semantic


@dataclass(frozen=True)
class InstanceScene:
    """Instances that may overlap."""

    masks: Sequence[np.ndarray]
    """N masks (H, W) bool, as an array or another sequence."""
    categories: Sequence[int]
    scores: Sequence[float] | None = None
    crowds: Collection[int] = ()
    """Positions of the masks that are crowds, regions of objects that nobody told apart."""

    def __len__(self) -> int:
        return len(self.masks)

    def draw(
        self,
        image: np.ndarray,
        classes: Classes,
        colors: Mapping[int, Color] | None = None,
        *,
        legend: bool = True,
    ) -> Image.Image:
        """Draw the scene on an RGB image (H, W, 3).

        Args:
            image: uint8.
            classes: names and colours.
            colors: by position in the scene; by default shades of the colour of the class.
            legend: add a legend if some regions have no room for a label. Without one, the picture
                has the size of the image or, if that is small, a multiple of it.
        """
        names = [classes.names[category] for category in self.categories]
        for i in self.crowds:
            names[i] = crowd_name(names[i])
        labels = names
        if self.scores is not None:
            labels = [f"{n} {s:.0%}" for n, s in zip(names, self.scores, strict=True)]
        if colors is None:
            numbers = shade_numbers(self.categories)
            colors = dict(enumerate(shades(self.categories, numbers, classes)))
        return draw_instances(
            image, self.masks, labels, [colors[i] for i in range(len(self))],
            names=names if legend else None, striped=self.crowds,
        )  # fmt: skip

    def summary(self, classes: Classes) -> str:
        """Return the number of instances."""
        crowds = f", {counted(len(self.crowds), 'crowd')}" if self.crowds else ""
        return counted(len(self) - len(self.crowds), "instance") + crowds


def shades(categories: Sequence[int], numbers: Sequence[int], classes: Classes) -> list[Color]:
    """Return the colour of each object: the shade of the given number of its class's colour."""
    return [
        shade(class_color(classes, category), number)
        for category, number in zip(categories, numbers, strict=True)
    ]


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
        legend: bool = True,
    ) -> Image.Image:
        """Draw the scene on an RGB image (H, W, 3); see `InstanceScene.draw`."""
        thing_colors = None
        if colors is not None:
            thing_colors = {segment["id"]: colors[i] for i, segment in enumerate(self.segments)}
        return draw_panoptic(
            image, self.ids, self.segments, classes.names, None, classes.colors,
            thing_colors=thing_colors, legend=legend,
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
        legend: bool = True,
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
        crowds = [i for i, a in enumerate(found) if a.get("iscrowd")]
        return InstanceScene(RunLengthMasks(rles), [a["category_id"] for a in found], crowds=crowds)
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
    crowds = [i for i, thing in enumerate(things) if thing.get("iscrowd")]
    return InstanceScene(
        RunLengthMasks(rles), [thing["category_id"] for thing in things], crowds=crowds
    )
