"""Drawing instances on an image: translucent masks with smooth edges, and readable labels.

Detectron2's visualizer needs OpenCV, turns masks into polygons and lets labels cover each other.
This one draws the masks directly, with Pillow.

Shapes:
    H, W: height and width of the image, N: number of instances.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from ..maps import box_of
from .canvas import line_width, make_canvas, stripe_distance, stripes
from .colors import Color
from .legend import add_legend
from .region_labels import RegionLabel, label_regions, search_stride, strided

_FILL_OPACITY = 0.45
# Between the stripes of a crowd.
_PALE_OPACITY = 0.1


def draw_instances(
    image: np.ndarray,
    masks: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[str],
    colors: Sequence[Color],
    *,
    names: Sequence[str] | None = None,
    striped: Collection[int] = (),
) -> Image.Image:
    """Draw N instances, crowds at the bottom and small instances on top.

    Args:
        image: (H, W, 3) uint8, RGB.
        masks: N masks (H, W) bool, as an array or another sequence.
        labels: N texts. Where there is no room for a text, it is left out.
        colors: N colours.
        names: N names of classes; add a legend of those whose instances have no label. None adds
            no legend.
        striped: positions of instances to fill with stripes, such as crowds.

    Returns:
        An RGB image of the size of `image`, or of a multiple of it if `image` is small; with a
        legend, it is larger.
    """
    canvas, factor = make_canvas(image)
    width = line_width(canvas)
    areas = [np.count_nonzero(masks[i]) for i in range(len(masks))]
    visible = [i for i in range(len(masks)) if areas[i] > 0]
    stride = search_stride(canvas.height, canvas.width)
    # Enlarged pictures are so small that every pixel is searched.
    small = strided(np.zeros(image.shape[:2], np.int32), stride)
    plain = canvas.copy()
    for i in sorted(visible, key=lambda i: (i not in striped, -areas[i])):
        below = None if i in striped else plain
        _draw_mask(canvas, masks[i], colors[i], width, factor, below)
        small[strided(masks[i], stride)] = i + 1
    if factor > 1:
        small = small.repeat(factor, axis=0).repeat(factor, axis=1)
    regions = [
        RegionLabel(labels[i], names[i] if names and areas[i] else "", colors[i], True)
        for i in range(len(masks))
    ]
    entries = label_regions(canvas, small, stride, regions)
    return canvas if names is None else add_legend(canvas, entries)


def _draw_mask(
    canvas: Image.Image,
    mask: np.ndarray,
    color: Color,
    line_width: float,
    factor: int,
    below: Image.Image | None,
) -> None:
    """Fill a mask and trace its edge.

    The fill is on `below`, so that the colours of instances below this one do not shine through;
    None stands for stripes on what is there.

    A blurred mask crosses one half at the edge of the mask, and is steep there. Look-up tables of
    the blurred mask therefore give both a fill with a soft border and a line along the edge.
    """
    H, W = mask.shape
    margin = math.ceil(2 * line_width / factor) + 1
    x0, y0, x1, y1 = box_of(mask)
    x0, y0, x1, y1 = max(0, x0 - margin), max(0, y0 - margin), x1 + margin, y1 + margin
    crop = Image.fromarray(mask[y0 : min(y1, H), x0 : min(x1, W)].astype(np.uint8) * 255)
    if factor > 1:
        size = (crop.width * factor, crop.height * factor)
        crop = crop.resize(size, Image.Resampling.BICUBIC)
    soft = crop.filter(ImageFilter.GaussianBlur(line_width / 2))
    opacity = soft.point([round(_FILL_OPACITY * v) for v in range(256)])
    corner = (x0 * factor, y0 * factor)
    if below is None:
        gaps = stripes(crop.height, crop.width, stripe_distance(canvas))
        limits = np.where(gaps, 255 * _PALE_OPACITY, 255).astype(np.uint8)
        opacity = ImageChops.darker(opacity, Image.fromarray(limits))
    else:
        right, bottom = corner[0] + crop.width, corner[1] + crop.height
        canvas.paste(below.crop((*corner, right, bottom)), corner, soft)
    line = soft.point([round(255 * min(1.0, 1.5 * (1 - abs(v / 127.5 - 1)))) for v in range(256)])
    canvas.paste(color, corner, opacity)
    canvas.paste(color, corner, line)
