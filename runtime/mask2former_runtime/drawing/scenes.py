"""What an image shows, true or predicted, in a form that can be drawn and compared.

Shapes:
    H, W: height and width of the image, N: number of instances.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..classes import Classes
from ..text import counted
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
