"""Readable labels, each at its object and clear of the others.

Shapes:
    H, W: height and width of the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colors import Color

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Point = tuple[float, float]  # x, y

_BACKGROUND = (18, 18, 22, 205)
# The largest share of a label that others may cover; beyond it, the label is left out.
_MAX_COVERED = 0.3


@dataclass(frozen=True)
class LabelAnchor:
    """Where the label of an object may go, in pixels of the picture."""

    box: Box
    """The object's bounding box."""
    area: float
    """The object's area."""
    inside: Sequence[Point]
    """Points within the object that have room around them, the best first."""
    may_leave: bool = True
    """Whether the label may stand beside the object."""

    @classmethod
    def of_mask(cls, mask: np.ndarray, factor: int) -> "LabelAnchor":
        """Make the anchor of a mask (H, W), bool, not empty, on a picture enlarged by `factor`."""
        x0, y0, x1, y1 = mask_bounds(mask)
        crop = mask[y0:y1, x0:x1]
        # The label goes to the row that halves the mask's area, at the middle of the longest run
        # in that row. Unlike the centre of gravity, this point is always within the object.
        row = int(np.searchsorted(np.cumsum(crop.sum(1)), crop.sum() / 2))
        row = min(row, crop.shape[0] - 1)
        edges = np.flatnonzero(np.diff(np.pad(crop[row].astype(np.int8), 1)))
        starts, ends = edges[::2], edges[1::2]
        longest = int(np.argmax(ends - starts)) if len(starts) else 0
        middle = (starts[longest] + ends[longest]) / 2 if len(starts) else crop.shape[1] / 2
        return cls(
            box=(x0 * factor, y0 * factor, x1 * factor, y1 * factor),
            area=float(crop.sum()) * factor**2,
            inside=[((x0 + float(middle)) * factor, (y0 + row + 0.5) * factor)],
        )

    def candidates(self, width: float, height: float) -> list[Box]:
        """Return places for a label of the given size, the best first."""
        within = [(x - width / 2, y - height / 2) for x, y in self.inside]
        outside: list[Point] = []
        if self.may_leave:
            x0, y0, x1, y1 = self.box
            x, y = within[0]
            within += [(x, y + step * height) for step in (-1.1, 1.1, -2.2, 2.2, -3.3, 3.3)]
            within += [(x0, y0), (x1 - width, y0), (x0, y1 - height), (x1 - width, y1 - height)]
            outside = [
                ((x0 + x1 - width) / 2, y0 - height - 2),
                ((x0 + x1 - width) / 2, y1 + 2),
                (x1 + 2, (y0 + y1 - height) / 2),
                (x0 - width - 2, (y0 + y1 - height) / 2),
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
        pad = bar = max(2, round(0.22 * size))
        ascent, descent = font.getmetrics()
        return cls(font, pad, bar, ascent + descent + pad)

    def width(self, text: str) -> float:
        """Return the width of a label with this text."""
        return self.font.getlength(text) + self.bar + 2 * self.pad


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)


def draw_labels(
    canvas: Image.Image,
    anchors: Sequence[LabelAnchor],
    labels: Sequence[str],
    colors: Sequence[Color],
    *,
    hides: Callable[[int, Box], float] | None = None,
    leave_out: bool = False,
) -> None:
    """Draw each label where it least overlaps earlier labels and least hides other objects.

    Args:
        canvas: the picture to draw on.
        anchors: anchors of N objects, the most important first.
        labels: N texts.
        colors: N colours.
        hides: given the position of an object and a box, returns how many pixels that should stay
            visible a label in that box would hide.
        leave_out: leave out labels that others would cover, or that hide half of their object.
    """
    style = LabelStyle.for_picture(canvas)
    placed: list[tuple[Box, str, Color]] = []
    boxes: list[Box] = []
    for i, (anchor, text, color) in enumerate(zip(anchors, labels, colors, strict=True)):
        places = anchor.candidates(style.width(text), style.height)
        cost = None if hides is None else partial(hides, i)
        box = least_overlap(places, boxes, canvas.width, canvas.height, cost)
        if leave_out:
            lost, size = float(covered([box], boxes)[0]), style.width(text) * style.height
            hidden = lost + (0 if cost is None else cost(box))
            if lost > _MAX_COVERED * size or hidden > 0.5 * anchor.area:
                continue
        boxes.append(box)
        placed.append((box, text, color))
    draw = ImageDraw.Draw(canvas, "RGBA")
    # Draw backwards, so that where two labels do overlap, the earlier one is on top.
    for box, text, color in reversed(placed):
        if not text:
            continue
        left, top, right, bottom = (round(v) for v in box)
        pad, bar = style.pad, style.bar
        draw.rounded_rectangle((left, top, right, bottom), radius=pad, fill=_BACKGROUND)
        draw.rectangle((left, top + pad, left + bar, bottom - pad), fill=color)
        at = (left + bar + pad, (top + bottom) / 2)
        draw.text(at, text, font=style.font, fill=(255, 255, 255), anchor="lm")


def least_overlap(
    candidates: Sequence[Box],
    placed: Sequence[Box],
    width: int,
    height: int,
    cost: Callable[[Box], float] | None = None,
) -> Box:
    """Return the best place for a label.

    Args:
        candidates: possible places, the best first. Each is first moved into the picture.
        placed: labels that are already in the picture.
        width: of the picture.
        height: of the picture.
        cost: further pixels that a label in a box would hide; they count like those of labels.

    Returns:
        The first of the candidates that hide the fewest pixels.
    """

    def moved_inside(box: Box) -> Box:
        dx = min(0.0, width - 1 - box[2])
        dx = max(dx, -box[0])
        dy = min(0.0, height - 1 - box[3])
        dy = max(dy, -box[1])
        return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy

    boxes = [moved_inside(box) for box in candidates]
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


def mask_bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 of a mask (H, W) that is not empty; x1 and y1 are exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
