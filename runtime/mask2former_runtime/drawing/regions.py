"""Drawing maps in which each pixel has at most one region: semantic classes, panoptic segments.

All regions are painted at once, so time and memory depend on the image, not on how many there are.

Shapes:
    H, W: height and width of the image, K: number of classes.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from .canvas import line_width, make_canvas, stripe_distance, stripes
from .colors import Color, palette_color, shade, shade_numbers
from .legend import add_legend
from .region_labels import RegionLabel, label_regions, search_stride, strided

# The opacity of the stripes of a crowd, and the share of it that is left between them.
_STRIPES, _PALE = 0.75, 0.15


@dataclass(frozen=True)
class _Region(RegionLabel):
    """How the pixels of one class or segment are drawn; `fill` and `line` are opacities."""

    fill: float
    line: float
    striped: bool = False


def draw_semantic(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    colors: Sequence[Color] | None = None,
    ignore_label: int | None = 255,
    *,
    legend: bool = False,
) -> Image.Image:
    """Draw the classes of pixels.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integers, the class of each pixel.
        names: K names.
        colors: K colours; by default those of the palette.
        ignore_label: pixels with this label stay as they are, unless it is a class.
        legend: add a legend of the classes that no label fits on.

    Returns:
        An RGB image of the size of `image`, or of a multiple of it if `image` is small; with a
        legend, it is larger.

    Raises:
        ValueError: the map and the image differ in size, or a label is not a class.
    """
    _check_size(image, labels)
    K = len(names)
    present = _present(labels)
    unknown = [v for v in present if not 0 <= v < K and v != ignore_label]
    if unknown:
        raise ValueError(
            f"the map has the label {unknown[0]}, but there are {K} classes (0 to {K - 1}) and "
            f"the label to ignore is {ignore_label}"
        )
    classes = [v for v in present if 0 <= v < K]
    regions = [
        _Region(names[c], names[c], colors[c] if colors else palette_color(c), False, 0.5, 0.9)
        for c in classes
    ]
    return _draw(image, _compact(labels, classes), regions, legend)


def draw_panoptic(
    image: np.ndarray,
    id_map: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    things: Collection[int] | None = None,
    colors: Sequence[Color] | None = None,
    *,
    thing_colors: Mapping[int, Color] | None = None,
    legend: bool = False,
) -> Image.Image:
    """Draw panoptic segments: things stronger than stuff.

    Args:
        image: (H, W, 3) uint8, RGB.
        id_map: (H, W) integers, the segment of each pixel. Pixels whose id is not in
            `segments_info`, such as 0, stay as they are.
        segments_info: `id` and `category_id` (in [0, K)) of each segment; `isthing` too unless
            `things` is given. A `score` is optional and is written beside the name of a thing;
            segments with `iscrowd` 1 are striped.
        names: K names.
        things: the classes that are things.
        colors: K colours; by default those of the palette.
        thing_colors: colours of things by the `id` of their segments; by default shades of the
            colour of the class.
        legend: add a legend of the segments that no label fits on.

    Returns:
        An RGB image of the size of `image`, or of a multiple of it if `image` is small; with a
        legend, it is larger.

    Raises:
        ValueError: the map and the image differ in size, or a segment's class is not in [0, K).
    """
    _check_size(image, id_map)
    present = set(_present(id_map))
    segments = [segment for segment in segments_info if segment["id"] in present]
    numbers = shade_numbers(segment["category_id"] for segment in segments)
    regions = []
    for segment, number in zip(segments, numbers, strict=True):
        category = segment["category_id"]
        if not 0 <= category < len(names):
            raise ValueError(
                f"segment {segment['id']} is of class {category}, but there are {len(names)} "
                "classes: each category_id must be a contiguous index that starts at 0"
            )
        is_thing = bool(segment["isthing"]) if things is None else category in things
        color = colors[category] if colors else palette_color(category)
        if is_thing:
            color = shade(color, number) if thing_colors is None else thing_colors[segment["id"]]
        crowd = bool(segment.get("iscrowd"))
        name = crowd_name(names[category]) if crowd else names[category]
        text = name
        if is_thing and segment.get("score") is not None:
            text += f" {segment['score']:.0%}"
        opacities = (_STRIPES if crowd else 0.52, 1.0) if is_thing else (0.44, 0.8)
        regions.append(_Region(text, name, color, is_thing, *opacities, striped=crowd))
    return _draw(image, _compact(id_map, [segment["id"] for segment in segments]), regions, legend)


def crowd_name(name: str) -> str:
    """Return how a crowd of objects of a class is called."""
    return f"{name} (crowd)" if name else ""


def _check_size(image: np.ndarray, labels: np.ndarray) -> None:
    if labels.shape != image.shape[:2]:
        raise ValueError(f"the map is {labels.shape}, the image {image.shape[:2]} (height, width)")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"the map must hold integers, not {labels.dtype}")


def _offset(labels: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return the labels less their minimum, the minimum, and the size of a table of them."""
    low, high = int(labels.min()), int(labels.max())
    if high - low >= 1 << 24:  # what panoptic PNG files can hold
        raise ValueError(f"the map's labels range from {low} to {high}: more than 2^24 apart")
    if low == 0:
        return labels, 0, high + 1
    return np.subtract(labels, low, dtype=np.int64), low, high - low + 1


def _present(labels: np.ndarray) -> list[int]:
    """Return the distinct values in ascending order."""
    labels, low, count = _offset(labels)
    found = np.zeros(count, bool)
    found[labels.reshape(-1)] = True
    return (np.flatnonzero(found) + low).tolist()


def _compact(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return (H, W): 1 + the position of each pixel's value in `values`, or 0 for other values."""
    labels, low, count = _offset(labels)
    table = np.zeros(count, np.uint8 if len(values) < 256 else np.int32)
    for i, value in enumerate(values):
        table[value - low] = i + 1
    return table[labels]


def _draw(
    image: np.ndarray, index: np.ndarray, regions: Sequence[_Region], legend: bool
) -> Image.Image:
    """Paint and label regions; `index` (H, W) numbers them from 1, and is 0 outside of them."""
    canvas, factor = make_canvas(image)
    if not regions:
        return canvas
    if factor > 1:
        index = index.repeat(factor, axis=0).repeat(factor, axis=1)
    _paint(canvas, index, regions, factor)
    stride = search_stride(*index.shape)
    entries = label_regions(canvas, strided(index, stride), stride, regions)
    return add_legend(canvas, entries) if legend else canvas


def _paint(canvas: Image.Image, index: np.ndarray, regions: Sequence[_Region], factor: int) -> None:
    """Fill all regions and strengthen them along their edges."""
    width = line_width(canvas)

    def opacity(values: list[float]) -> Image.Image:
        table = np.array([0, *(round(255 * v) for v in values)], np.uint8)
        return Image.fromarray(table[index])

    edge = Image.fromarray(_edges(index)).filter(ImageFilter.GaussianBlur(width / 2))
    # An edge is two pixels wide; this is what the blur leaves of it in the middle.
    peak = math.erf(1 / (width / 2) / math.sqrt(2))
    edge = edge.point([min(255, round(1.5 * v / peak)) for v in range(256)])
    fill = opacity([r.fill for r in regions])
    if any(r.striped for r in regions):
        gaps = stripes(canvas.height, canvas.width, stripe_distance(canvas))
        gaps &= np.array([False, *(r.striped for r in regions)])[index]
        pale = fill.point([round(_PALE * v) for v in range(256)])
        fill = Image.composite(pale, fill, _mask(gaps))
    alpha = opacity([r.line - r.fill for r in regions])
    alpha = ImageChops.add(fill, ImageChops.multiply(alpha, edge))

    table = np.array([(0, 0, 0), *(r.color for r in regions)], np.uint8)
    layer = Image.fromarray(table[index])
    # Pixels outside of regions take the image's colours, so that softening the edges of regions
    # does not blend in another colour.
    layer.paste(canvas, mask=_mask(index == 0))
    soften = ImageFilter.GaussianBlur(max(0.6, 0.25 * width, 0.5 * factor if factor > 1 else 0))
    canvas.paste(layer.filter(soften), mask=alpha.filter(soften))


def _edges(index: np.ndarray) -> np.ndarray:
    """Return (H, W) uint8: 255 at pixels on both sides of a border between regions."""
    edges = np.zeros(index.shape, np.uint8)
    changes = (index[1:] != index[:-1]).astype(np.uint8) * 255
    edges[1:] |= changes
    edges[:-1] |= changes
    changes = (index[:, 1:] != index[:, :-1]).astype(np.uint8) * 255
    edges[:, 1:] |= changes
    edges[:, :-1] |= changes
    return edges


def _mask(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array.astype(np.uint8) * 255)
