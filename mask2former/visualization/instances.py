"""Drawing instances on an image: translucent masks with smooth edges, and readable labels.

Detectron2's visualizer needs OpenCV, turns masks into polygons and lets labels cover each other.
This one draws the masks directly, with Pillow.

Shapes:
    H, W: height and width of the image, N: number of instances.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from .canvas import line_width, make_canvas
from .colors import Color
from .labels import LabelAnchor, draw_labels, mask_bounds

_FILL_OPACITY = 0.42


def draw_instances(
    image: np.ndarray,
    masks: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[str],
    colors: Sequence[Color],
) -> Image.Image:
    """Draw N instances.

    Args:
        image: (H, W, 3) uint8, RGB.
        masks: N masks (H, W) bool, as an array or another sequence.
        labels: N texts; the first ones get the best places.
        colors: N colours.

    Returns:
        An RGB image of the size of `image`, or of a multiple of it if `image` is small.
    """
    canvas, factor = make_canvas(image)
    areas = [np.count_nonzero(masks[i]) for i in range(len(masks))]
    visible = [i for i in range(len(masks)) if areas[i] > 0]
    width = line_width(canvas)
    for i in sorted(visible, key=lambda i: -areas[i]):  # small ones on top
        _draw_mask(canvas, masks[i], colors[i], width, factor)
    anchors = [LabelAnchor.of_mask(masks[i], factor) for i in visible]
    draw_labels(canvas, anchors, [labels[i] for i in visible], [colors[i] for i in visible])
    return canvas


def _draw_mask(
    canvas: Image.Image, mask: np.ndarray, color: Color, line_width: float, factor: int
) -> None:
    """Fill a mask and trace its edge.

    A blurred mask crosses one half at the edge of the mask, and is steep there. Look-up tables of
    the blurred mask therefore give both a fill with a soft border and a line along the edge.
    """
    H, W = mask.shape
    margin = math.ceil(2 * line_width / factor) + 1
    x0, y0, x1, y1 = mask_bounds(mask)
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
