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
from scipy import ndimage

from .canvas import line_width, make_canvas
from .colors import Color, calm, palette_color
from .labels import Box, LabelAnchor, LabelStyle, Point, draw_labels

# The search for places of labels uses a map of at most this many pixels per side.
_SEARCH_SIDE = 640
# A label is several times as wide as it is high, so it needs more room to the left and right.
_LABEL_ASPECT = 4.0
# How many places within a region to try.
_NUM_POINTS = 6


@dataclass(frozen=True)
class _Region:
    """How the pixels of one class or segment are drawn; `fill` and `line` are opacities."""

    name: str
    color: Color
    is_thing: bool
    fill: float
    line: float


def draw_semantic(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    colors: Sequence[Color] | None = None,
    ignore_label: int | None = 255,
) -> Image.Image:
    """Draw the classes of pixels.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integers, the class of each pixel.
        names: K names.
        colors: K colours; by default those of the palette.
        ignore_label: pixels with this label stay as they are, unless it is a class.

    Returns:
        An RGB image of the size of `image`, or of a multiple of it if `image` is small.

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
        _Region(names[c], colors[c] if colors else palette_color(c), False, 0.5, 0.9)
        for c in classes
    ]
    return _draw(image, _compact(labels, classes), regions)


def draw_panoptic(
    image: np.ndarray,
    id_map: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    things: Collection[int] | None = None,
    colors: Sequence[Color] | None = None,
    *,
    by_class: bool = False,
    thing_colors: Mapping[int, Color] | None = None,
) -> Image.Image:
    """Draw panoptic segments: things bright and outlined, stuff calmer.

    Args:
        image: (H, W, 3) uint8, RGB.
        id_map: (H, W) integers, the segment of each pixel. Pixels whose id is not in
            `segments_info`, such as 0, stay as they are.
        segments_info: `id` and `category_id` (in [0, K)) of each segment; `isthing` too unless
            `things` is given. A `score` is optional and is written beside the name of a thing.
        names: K names.
        things: the classes that are things.
        colors: K colours; by default those of the palette.
        by_class: draw things in the colour of their class too, which stays the same over the
            frames of a video; by default each thing has a colour of its own.
        thing_colors: colours of things by the `id` of their segments.

    Returns:
        An RGB image of the size of `image`, or of a multiple of it if `image` is small.

    Raises:
        ValueError: the map and the image differ in size, or a segment's class is not in [0, K).
    """
    _check_size(image, id_map)
    present = set(_present(id_map))
    segments = [segment for segment in segments_info if segment["id"] in present]
    regions = []
    num_things = 0
    for segment in segments:
        category = segment["category_id"]
        if not 0 <= category < len(names):
            raise ValueError(
                f"segment {segment['id']} is of class {category}, but there are {len(names)} "
                "classes: each category_id must be a contiguous index that starts at 0"
            )
        is_thing = bool(segment["isthing"]) if things is None else category in things
        color = colors[category] if colors else palette_color(category)
        if is_thing and thing_colors is not None:
            color = thing_colors[segment["id"]]
        elif is_thing and not by_class:
            color = palette_color(num_things)
        num_things += is_thing
        name = names[category]
        if is_thing and segment.get("score") is not None:
            name += f" {segment['score']:.0%}"
        if is_thing:
            regions.append(_Region(name, color, True, 0.52, 1.0))
        else:
            regions.append(_Region(name, calm(color), False, 0.46, 0.7))
    return _draw(image, _compact(id_map, [segment["id"] for segment in segments]), regions)


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


def _draw(image: np.ndarray, index: np.ndarray, regions: Sequence[_Region]) -> Image.Image:
    """Paint and label regions; `index` (H, W) numbers them from 1, and is 0 outside of them."""
    canvas, factor = make_canvas(image)
    if not regions:
        return canvas
    if factor > 1:
        index = index.repeat(factor, axis=0).repeat(factor, axis=1)
    _paint(canvas, index, regions, factor)
    _label(canvas, index, regions)
    return canvas


def _label(canvas: Image.Image, index: np.ndarray, regions: Sequence[_Region]) -> None:
    """Write the names of the regions."""
    stride = math.ceil(max(index.shape) / _SEARCH_SIDE)
    top, left = (min(stride // 2, n - 1) for n in index.shape)
    small = index[top::stride, left::stride]
    style = LabelStyle.for_picture(canvas)
    # A region that its own label would hide gets no label.
    labelled = [
        (i, anchor)
        for i, anchor in _anchors(small, regions, stride)
        if anchor.area
        > (0.12 if regions[i].is_thing else 1.5) * style.width(regions[i].name) * style.height
    ]
    is_thing = np.array([False, *(region.is_thing for region in regions)])

    def other_things(number: int, box: Box) -> float:
        x0, y0, x1, y1 = (max(0, round(v / stride)) for v in box)
        below = small[y0:y1, x0:x1]
        others = is_thing[below] & (below != labelled[number][0] + 1)
        return 0.5 * float(np.count_nonzero(others)) * stride**2

    draw_labels(
        canvas,
        [anchor for _, anchor in labelled],
        [regions[i].name for i, _ in labelled],
        [regions[i].color for i, _ in labelled],
        hides=other_things,
        leave_out=True,
    )


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
    alpha = opacity([r.line - r.fill for r in regions])
    alpha = ImageChops.add(opacity([r.fill for r in regions]), ImageChops.multiply(alpha, edge))

    table = np.array([(0, 0, 0), *(r.color for r in regions)], np.uint8)
    layer = Image.fromarray(table[index])
    # Pixels outside of regions take the image's colours, so that softening the edges of regions
    # does not blend in another colour.
    layer.paste(canvas, mask=Image.fromarray((index == 0).astype(np.uint8) * 255))
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


def _anchors(
    small: np.ndarray, regions: Sequence[_Region], stride: int
) -> list[tuple[int, LabelAnchor]]:
    """Return where labels may go, each with its position in `regions`: things first, then stuff.

    Things and stuff are each sorted by area, the largest first. A region in several pieces has its
    label on the largest and, if it is stuff, also on others that are nearly as large. `small` is
    the map at 1/stride of the picture's size.
    """
    found: list[tuple[int, LabelAnchor]] = []
    for i, (slices, region) in enumerate(zip(ndimage.find_objects(small), regions, strict=False)):
        if slices is None:
            continue
        pieces, count = ndimage.label(small[slices] == i + 1)
        areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        order = np.argsort(-areas, kind="stable")
        limit = 1 if region.is_thing else 3
        for piece in order[:limit]:
            if areas[piece] < areas[order[0]] / 3:
                break
            anchor = _anchor(pieces == piece + 1, slices, stride, region.is_thing)
            found.append((i, anchor))
    found.sort(key=lambda item: (not regions[item[0]].is_thing, -item[1].area))
    return found


def _anchor(
    piece: np.ndarray, slices: tuple[slice, slice], stride: int, may_leave: bool
) -> LabelAnchor:
    """Find the points with the most room within a piece, a crop at 1/stride of the size."""
    rows, columns = slices
    room = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=(_LABEL_ASPECT, 1))
    room = room[1:-1, 1:-1]
    points: list[Point] = []
    best = float(room.max())
    while len(points) < _NUM_POINTS:
        y, x = np.unravel_index(np.argmax(room), room.shape)
        reach = float(room[y, x])
        if reach <= best / 2 and points:  # a label would hardly fit there
            break
        center = ((columns.start + int(x) + 0.5) * stride, (rows.start + int(y) + 0.5) * stride)
        points.append(center)
        dx, dy = math.ceil(reach), math.ceil(reach / _LABEL_ASPECT)
        room[max(0, y - dy) : y + dy + 1, max(0, x - dx) : x + dx + 1] = 0
    box = (columns.start * stride, rows.start * stride, columns.stop * stride, rows.stop * stride)
    return LabelAnchor(box, float(piece.sum()) * stride**2, points, may_leave)
