"""Readable labels, each at its object and off the others."""

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
# How much of a label others may cover before it is left out rather than drawn.
_MAX_COVERED = 0.3


@dataclass(frozen=True)
class LabelAnchor:
    """Where the label of an object may go, in pixels of the picture."""

    box: Box
    """Around the object."""
    area: float
    inside: Sequence[Point]
    """Points within the object that have room around them, the best first."""
    may_leave: bool = True
    """Whether the label may stand beside the object."""

    @classmethod
    def of_mask(cls, mask: np.ndarray, factor: int) -> "LabelAnchor":
        """From a mask (H, W), bool, not empty, on a picture enlarged by `factor`."""
        x0, y0, x1, y1 = mask_bounds(mask)
        crop = mask[y0:y1, x0:x1]
        # The row in the middle of the mask's area, and the middle of its longest run there: always
        # within the object, unlike the centre of gravity.
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
        """Places for a label of the given size, the best first."""
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
        # A label must not hide the object that it names.
        order = within + outside if self.area > 6 * width * height else outside + within
        return [(left, top, left + width, top + height) for left, top in order]


@dataclass(frozen=True)
class LabelStyle:
    """Sizes that suit a picture, in pixels."""

    font: ImageFont.FreeTypeFont
    pad: int
    bar: int
    height: float

    @classmethod
    def for_picture(cls, picture: Image.Image) -> "LabelStyle":
        """Text that is readable, and takes little of the picture."""
        size = max(11, round(0.021 * (picture.width * picture.height) ** 0.5))
        font = _font(size)
        pad = bar = max(2, round(0.22 * size))
        ascent, descent = font.getmetrics()
        return cls(font, pad, bar, ascent + descent + pad)

    def width(self, text: str) -> float:
        """Of a label with this text."""
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
    """Draw each label where it overlaps those before it, and hides others' objects, least.

    Args:
        canvas: is drawn on.
        anchors: of N objects, those that matter most first.
        labels: N texts.
        colors: N colours.
        hides: from the number of an object and a box to how many pixels a label there would cover
            that it had better not.
        leave_out: leave labels out that others would cover, or that hide half of what they name.
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
    # Backwards, so that where two overlap after all, the one that comes first is whole.
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
    """The first of the candidates that are covered and, apart from that, cost least.

    All are moved into the picture before.
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
    """How many pixels of each of the boxes all the others cover; twice what two cover."""
    a = np.array(boxes).reshape(-1, 1, 4)
    b = np.array(others).reshape(1, -1, 4)
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return shared.clip(min=0).prod(-1).sum(-1)


def mask_bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask (H, W) that is not empty; ends exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
