"""A legend beside or below a picture, for the regions that have no label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .canvas import INK, PAPER
from .colors import Color
from .labels import LabelStyle

# Of objects of one class, at most this many shades are shown.
_MOST_SHADES = 4


@dataclass
class LegendEntry:
    """One line of a legend.

    Attributes:
        name: of the class.
        colors: of its regions.
        count: of its objects, which is written if there are several; None is not written.
    """

    name: str
    colors: list[Color]
    count: int | None = None

    @property
    def text(self) -> str:
        """What is written."""
        return self.name if self.count in (None, 1) else f"{self.name} ({self.count})"


def add_legend(picture: Image.Image, entries: Sequence[LegendEntry]) -> Image.Image:
    """Return the picture with a strip that lists the entries; the picture itself stays as it is.

    The strip is below the picture or, if that is high and narrow, at its right.

    Args:
        picture: RGB.
        entries: without any, the picture is returned.
    """
    if not entries:
        return picture
    style = LabelStyle.for_picture(picture)
    gap, row = 2 * style.pad, round(1.15 * style.height)
    swatch = round(1.5 * style.height)
    widths = [swatch + gap + style.font.getlength(entry.text) for entry in entries]
    column = round(max(widths)) + 3 * gap
    beside = picture.height > 1.25 * picture.width or column > picture.width
    if beside:
        lines = max(1, (picture.height - 2 * gap) // row)
        columns = -(-len(entries) // lines)
    else:
        columns = max(1, min(len(entries), (picture.width - gap) // column))
        lines = -(-len(entries) // columns)
    left, top = (picture.width + gap, gap) if beside else (gap, picture.height + gap)
    size = (
        (left + columns * column, max(picture.height, 2 * gap + lines * row))
        if beside
        else (picture.width, top + lines * row + gap)
    )
    page = Image.new("RGB", size, PAPER)
    page.paste(picture)
    draw = ImageDraw.Draw(page)
    for i, entry in enumerate(entries):
        x, y = left + i // lines * column, top + i % lines * row
        box = x, y + style.pad, x + swatch, y + row - style.pad
        _draw_swatch(draw, box, entry.colors[:_MOST_SHADES])
        at = (x + swatch + gap, y + row / 2)
        draw.text(at, entry.text, font=style.font, fill=INK, anchor="lm")
    return page


def _draw_swatch(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colors: Sequence[Color]
) -> None:
    x0, y0, x1, y1 = box
    for i, color in enumerate(colors):
        share = (x1 - x0) / len(colors)
        draw.rectangle((x0 + round(i * share), y0, x0 + round((i + 1) * share), y1), fill=color)
