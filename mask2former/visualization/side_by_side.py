"""Several pictures of one image in one, each with a caption."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from mask2former_runtime.drawing.canvas import INK, PAPER
from mask2former_runtime.drawing.labels import LabelStyle


def side_by_side(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Join pictures in a row or, if they are wide, one below the other.

    Args:
        pictures: N pictures; they may differ in size, as those with a legend do.
        captions: N lines of text.

    Returns:
        An RGB image of the pictures, with a strip of text above each and gaps between them.
    """
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    style = LabelStyle.for_picture(pictures[0])
    strip, gap = round(1.9 * style.height), max(4, round(0.4 * style.height))
    wide = width > 1.6 * height
    columns, rows = (1, len(pictures)) if wide else (len(pictures), 1)
    canvas = Image.new(
        "RGB",
        (columns * (width + gap) - gap, rows * (height + strip + gap) - gap),
        PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = 0 if wide else i * (width + gap)
        top = i * (height + strip + gap) if wide else 0
        canvas.paste(picture, (left, top + strip))
        at = (left + style.pad * 2, top + strip / 2)
        draw.text(at, _fitting(caption, style, width), font=style.font, fill=INK, anchor="lm")
    return canvas


def _fitting(text: str, style: LabelStyle, width: int) -> str:
    """Return the text, shortened if it does not fit."""
    if style.width(text) <= width:
        return text
    while text and style.width(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
