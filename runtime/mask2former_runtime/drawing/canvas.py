"""The picture to draw on.

Shapes:
    H, W: height and width of the image.
"""

import math

import numpy as np
from PIL import Image

# Pictures are enlarged by a whole factor until the longer side has this many pixels. Labels on
# a 128-pixel image would be unreadable or would hide it.
_MIN_SIDE = 512
# Around pictures: the colours of the page they are published on.
PAPER, INK = (255, 255, 255), (30, 30, 34)


def make_canvas(image: np.ndarray) -> tuple[Image.Image, int]:
    """Turn the image (H, W, 3), uint8, RGB, into a picture.

    Returns:
        The picture and the factor by which it is enlarged.
    """
    H, W = image.shape[:2]
    factor = max(1, math.ceil(_MIN_SIDE / max(H, W)))
    canvas = Image.fromarray(image)
    if factor > 1:
        canvas = canvas.resize((W * factor, H * factor), Image.Resampling.BICUBIC)
    return canvas, factor


def line_width(canvas: Image.Image) -> float:
    """Return the width of outlines in pixels."""
    return max(1.6, 0.0032 * math.sqrt(canvas.width * canvas.height))


def stripes(height: int, width: int, distance: int) -> np.ndarray:
    """Return (height, width) bool: diagonal stripes, `distance` pixels apart and half as wide."""
    rows, columns = np.ogrid[:height, :width]
    return (rows + columns) % distance < distance / 2


def stripe_distance(canvas: Image.Image) -> int:
    """Return the distance between the stripes of crowds in pixels."""
    return max(8, round(5 * line_width(canvas)))
