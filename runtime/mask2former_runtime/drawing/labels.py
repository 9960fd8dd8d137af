"""Readable labels, each at its object and clear of the others.

Shapes:
    H, W: height and width of the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colors import Color

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Point = tuple[float, float]  # x, y

_FONT = str(Path(__file__).with_name("DejaVuSans.ttf"))
_BACKGROUND = (18, 18, 22, 205)
# The largest share of a label that others may cover; beyond it, the label is left out.
_MAX_COVERED = 0.3


@dataclass(frozen=True)
class LabelAnchor:
    """Where the label of an object may go, in pixels of the picture.

    Attributes:
        area: the object's area.
        inside: points within the object that have room around them, the best first.
        tips: the object's highest, lowest, leftmost and rightmost points, if the label may stand
            beside the object there.
    """

    area: float
    inside: Sequence[Point]
    tips: tuple[Point, Point, Point, Point] | None = None

    def candidates(self, width: float, height: float) -> list[Box]:
        """Return places for a label of the given size, the best first."""
        within = [(x - width / 2, y - height / 2) for x, y in self.inside]
        outside: list[Point] = []
        if self.tips is not None:
            x, y = within[0]
            within += [(x, y + step * height) for step in (-1.1, 1.1, -2.2, 2.2, -3.3, 3.3)]
            (top_x, top_y), (bottom_x, bottom_y), (left_x, left_y), (right_x, right_y) = self.tips
            outside = [
                (top_x - width / 2, top_y - height - 2),
                (bottom_x - width / 2, bottom_y + 2),
                (right_x + 2, right_y - height / 2),
                (left_x - width - 2, left_y - height / 2),
            ]
        # A label must not hide the object it names.
        order = within + outside if self.area > 6 * width * height else outside + within
        return [(left, top, left + width, top + height) for left, top in order]


@dataclass(frozen=True)
class LabelStyle:
    """The font of labels and their sizes in pixels, for one picture."""

    font: ImageFont.FreeTypeFont
    pad: int
    bar: int
    height: float

    @classmethod
    def for_picture(cls, picture: Image.Image) -> "LabelStyle":
        """Choose sizes at which text is readable and takes up little of the picture."""
        size = max(11, round(0.021 * (picture.width * picture.height) ** 0.5))
        font = _font(size)
        pad, bar = max(3, round(0.27 * size)), max(3, round(0.22 * size))
        ascent, descent = font.getmetrics()
        return cls(font, pad, bar, ascent + descent + pad)

    def width(self, text: str) -> float:
        """Return the width of a label with this text."""
        return self.font.getlength(text) + self.bar + 2 * self.pad


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_FONT, size)


def draw_labels(
    canvas: Image.Image,
    anchors: Sequence[LabelAnchor],
    labels: Sequence[str],
    colors: Sequence[Color],
    *,
    hides: Callable[[int, Box], float],
    allowed: Callable[[int, Box], bool],
) -> list[int]:
    """Draw each label where it least overlaps earlier labels and least hides other objects.

    Labels that others would cover, or that hide half of their object, are left out.

    Args:
        canvas: the picture to draw on.
        anchors: anchors of N objects, the most important first.
        labels: N texts.
        colors: N colours.
        hides: given the position of an object and a box, returns how many pixels that should stay
            visible a label in that box would hide.
        allowed: given the same, returns whether it is clear which object such a label names.

    Returns:
        The positions of the labels that are drawn.
    """
    style = LabelStyle.for_picture(canvas)
    placed: list[int] = []
    boxes: list[Box] = []
    for i, (anchor, text) in enumerate(zip(anchors, labels, strict=True)):
        width = style.width(text)
        places = [
            moved_inside(box, canvas.width, canvas.height)
            for box in anchor.candidates(width, style.height)
        ]
        places = [box for box in places if allowed(i, box)]
        if not places:
            continue
        box = least_overlap(places, boxes, partial(hides, i))
        lost = float(covered([box], boxes)[0])
        if lost > _MAX_COVERED * width * style.height or lost + hides(i, box) > 0.5 * anchor.area:
            continue
        boxes.append(box)
        placed.append(i)
    draw = ImageDraw.Draw(canvas, "RGBA")
    # Draw backwards, so that where two labels do overlap, the earlier one is on top.
    for box, i in reversed(list(zip(boxes, placed, strict=True))):
        text, color = labels[i], colors[i]
        if not text:
            continue
        left, top, right, bottom = (round(v) for v in box)
        pad, bar = style.pad, style.bar
        draw.rounded_rectangle((left, top, right, bottom), radius=pad, fill=_BACKGROUND)
        draw.rectangle((left, top + pad, left + bar, bottom - pad), fill=color)
        at = (left + bar + pad, (top + bottom) / 2)
        draw.text(at, text, font=style.font, fill=(255, 255, 255), anchor="lm")
    return placed


def moved_inside(box: Box, width: int, height: int) -> Box:
    """Move a box into a picture of the given size."""
    dx = max(min(0.0, width - 1 - box[2]), -box[0])
    dy = max(min(0.0, height - 1 - box[3]), -box[1])
    return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy


def least_overlap(
    boxes: Sequence[Box], placed: Sequence[Box], cost: Callable[[Box], float] | None = None
) -> Box:
    """Return the best place for a label.

    Args:
        boxes: possible places, the best first.
        placed: labels that are already in the picture.
        cost: further pixels that a label in a box would hide; they count like those of labels.

    Returns:
        The first of the boxes that hide the fewest pixels.
    """
    costs = covered(boxes, placed)
    if cost is not None:
        costs += [cost(box) for box in boxes]
    return boxes[int(np.argmin(costs))]


def covered(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """Return how many pixels of each box the others cover; pixels under two others count twice."""
    a = np.array(boxes).reshape(-1, 1, 4)
    b = np.array(others).reshape(1, -1, 4)
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return shared.clip(min=0).prod(-1).sum(-1)
