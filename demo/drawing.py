"""Drawing instances over an image: translucent masks with smooth edges, and readable labels.

Detectron2's own visualizer needs OpenCV, turns masks into polygons and lets labels cover each
other, so this one works on the masks directly, with Pillow.

Shapes:
    H, W: height and width of the image, N: number of instances.
"""

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1

_FILL_OPACITY = 0.42
_LABEL_BACKGROUND = (18, 18, 22, 205)
# Pictures are enlarged by a whole factor until the longer side has this many pixels: labels on
# a 128 pixel image would be unreadable or would hide it.
_MIN_SIDE = 512


def palette_color(index: int) -> Color:
    """The index-th of an endless row of colours; neighbours in the row are far apart in hue."""
    hue = (0.58 + index * 0.6180339887) % 1.0
    # Three levels of lightness keep colours distinct once hues come close again.
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.8))[index // 8 % 3]
    # Saturated blue is so dark that its edges vanish in shadows.
    saturation *= 1 - 0.4 * math.exp(-(((hue - 0.67) / 0.06) ** 2))
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)


def draw_instances(
    image: np.ndarray, masks: np.ndarray, labels: Sequence[str], colors: Sequence[Color]
) -> Image.Image:
    """Draw N instances.

    Args:
        image: (H, W, 3) uint8, RGB.
        masks: (N, H, W) bool.
        labels: N texts; those that come first get the better places.
        colors: N colours.

    Returns:
        an RGB image, as large as `image` or, if that is small, a multiple of it.
    """
    H, W = image.shape[:2]
    factor = max(1, math.ceil(_MIN_SIDE / max(H, W)))
    canvas = Image.fromarray(image)
    if factor > 1:
        canvas = canvas.resize((W * factor, H * factor), Image.Resampling.BICUBIC)
    areas = masks.sum((1, 2))
    visible = [i for i in range(len(masks)) if areas[i] > 0]
    line_width = max(1.6, 0.0032 * math.sqrt(canvas.width * canvas.height))
    for i in sorted(visible, key=lambda i: -areas[i]):  # small ones on top
        _draw_mask(canvas, masks[i], colors[i], line_width, factor)
    anchors = [_LabelAnchor(masks[i], factor) for i in visible]
    _draw_labels(canvas, anchors, [labels[i] for i in visible], [colors[i] for i in visible])
    return canvas


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask (H, W) that is not empty; ends exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _draw_mask(
    canvas: Image.Image, mask: np.ndarray, color: Color, line_width: float, factor: int
) -> None:
    """Fill a mask and trace its edge.

    A blurred mask passes one half at the edge and is steep there, so both the soft border of the
    fill and a line centred on the edge are mere look-up tables of it.
    """
    H, W = mask.shape
    margin = math.ceil(2 * line_width / factor) + 1
    x0, y0, x1, y1 = _bounds(mask)
    x0, y0, x1, y1 = max(0, x0 - margin), max(0, y0 - margin), x1 + margin, y1 + margin
    crop = Image.fromarray(mask[y0 : min(y1, H), x0 : min(x1, W)].astype(np.uint8) * 255)
    if factor > 1:
        size = (crop.width * factor, crop.height * factor)
        crop = crop.resize(size, Image.Resampling.BICUBIC)
    soft = crop.filter(ImageFilter.GaussianBlur(line_width / 2))
    fill = soft.point([round(_FILL_OPACITY * v) for v in range(256)])
    line = soft.point([round(255 * min(1.0, 1.5 * (1 - abs(v / 127.5 - 1)))) for v in range(256)])
    corner = (x0 * factor, y0 * factor)
    canvas.paste(color, corner, fill)
    canvas.paste(color, corner, line)


class _LabelAnchor:
    """Where the label of an instance may go, in pixels of the picture."""

    def __init__(self, mask: np.ndarray, factor: int):
        x0, y0, x1, y1 = _bounds(mask)
        self.box = (x0 * factor, y0 * factor, x1 * factor, y1 * factor)
        crop = mask[y0:y1, x0:x1]
        self.area = float(crop.sum()) * factor**2
        # The row in the middle of the mask's area, and the middle of its longest run there: always
        # within the object, unlike the centre of gravity.
        row = int(np.searchsorted(np.cumsum(crop.sum(1)), crop.sum() / 2))
        row = min(row, crop.shape[0] - 1)
        edges = np.flatnonzero(np.diff(np.pad(crop[row].astype(np.int8), 1)))
        starts, ends = edges[::2], edges[1::2]
        longest = int(np.argmax(ends - starts)) if len(starts) else 0
        middle = (starts[longest] + ends[longest]) / 2 if len(starts) else crop.shape[1] / 2
        self.inside = ((x0 + float(middle)) * factor, (y0 + row + 0.5) * factor)

    def candidates(self, width: float, height: float) -> list[Box]:
        """Places for a label of the given size, the best first."""
        x0, y0, x1, y1 = self.box
        x, y = self.inside
        inside = (x - width / 2, y - height / 2)
        outside = [
            ((x0 + x1 - width) / 2, y0 - height - 2),
            ((x0 + x1 - width) / 2, y1 + 2),
            (x1 + 2, (y0 + y1 - height) / 2),
            (x0 - width - 2, (y0 + y1 - height) / 2),
        ]
        steps = (0, -1.1, 1.1, -2.2, 2.2, -3.3, 3.3)
        within = [(inside[0], inside[1] + step * height) for step in steps]
        within += [(x0, y0), (x1 - width, y0), (x0, y1 - height), (x1 - width, y1 - height)]
        # A label must not hide the object that it names.
        order = within + outside if self.area > 6 * width * height else outside + within
        return [(left, top, left + width, top + height) for left, top in order]


def _draw_labels(
    canvas: Image.Image,
    anchors: Sequence[_LabelAnchor],
    labels: Sequence[str],
    colors: Sequence[Color],
) -> None:
    """Draw each label where it overlaps those before it least."""
    size = max(11, round(0.021 * math.sqrt(canvas.width * canvas.height)))
    font = ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size
    )
    pad, bar = max(2, round(0.22 * size)), max(2, round(0.22 * size))
    ascent, descent = font.getmetrics()
    draw = ImageDraw.Draw(canvas, "RGBA")
    placed: list[Box] = []
    for anchor, text in zip(anchors, labels, strict=True):
        width = font.getlength(text) + bar + 2 * pad
        places = anchor.candidates(width, ascent + descent + pad)
        placed.append(_least_overlap(places, placed, canvas.width, canvas.height))
    # Backwards, so that where two overlap after all, the one that comes first is whole.
    for box, text, color in reversed(list(zip(placed, labels, colors, strict=True))):
        if not text:
            continue
        left, top, right, bottom = (round(v) for v in box)
        draw.rounded_rectangle((left, top, right, bottom), radius=pad, fill=_LABEL_BACKGROUND)
        draw.rectangle((left, top + pad, left + bar, bottom - pad), fill=color)
        middle = (top + bottom) / 2
        draw.text((left + bar + pad, middle), text, font=font, fill=(255, 255, 255), anchor="lm")


def _least_overlap(
    candidates: Sequence[Box], placed: Sequence[Box], width: int, height: int
) -> Box:
    """The first of the least covered candidates, moved into the picture."""

    def moved_inside(box: Box) -> Box:
        dx = min(0.0, width - 1 - box[2])
        dx = max(dx, -box[0])
        dy = min(0.0, height - 1 - box[3])
        dy = max(dy, -box[1])
        return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy

    def overlap(box: Box) -> float:
        return sum(
            max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
            * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
            for other in placed
        )

    return min((moved_inside(box) for box in candidates), key=overlap)
