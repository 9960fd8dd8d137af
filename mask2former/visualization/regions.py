"""Drawing maps that give each pixel at most one region: semantic classes, panoptic segments.

All regions are painted at once, so time and memory depend on the image and not on their number.

Shapes:
    H, W: height and width of the image, K: number of classes, R: regions.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter
from scipy import ndimage

from .canvas import line_width, make_canvas
from .colors import Color, calm, palette_color
from .labels import LabelAnchor, LabelStyle, draw_labels

# Places for labels are looked for on a map of at most this many pixels a side.
_SEARCH_SIDE = 640
# A label is several times as wide as high, so room to the left and right counts more.
_LABEL_ASPECT = 4.0


@dataclass(frozen=True)
class _Region:
    """How pixels of one class or segment look."""

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
        colors: K colours; by default, some that can be told apart.
        ignore_label: pixels of this label stay as they are, if it is no class.

    Returns:
        an RGB image, as large as `image` or, if that is small, a multiple of it.

    Raises:
        ValueError: the map is not of the image's size, or has a label that is no class.
    """
    _check_size(image, labels)
    K = len(names)
    present = _present(labels)
    unknown = [v for v in present if not 0 <= v < K and v != ignore_label]
    if unknown:
        raise ValueError(
            f"the map has the label {unknown[0]}, but there are {K} classes (0 to {K - 1}) and "
            f"pixels to ignore are {ignore_label}"
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
) -> Image.Image:
    """Draw panoptic segments: things bright and outlined, stuff calmer.

    Args:
        image: (H, W, 3) uint8, RGB.
        id_map: (H, W) integers, the segment of each pixel; other ids than in `segments_info` (as 0)
            are no segments and stay as they are.
        segments_info: of each segment `id` and `category_id` (in [0, K)) and, if `things` is not
            given, `isthing`; optionally `score`.
        names: K names.
        things: which classes are things.
        colors: K colours; by default, some that can be told apart.
        by_class: things take their class's colour as well, which is stable over the frames of a
            video; by default, each has one of its own.

    Returns:
        an RGB image, as large as `image` or, if that is small, a multiple of it.

    Raises:
        ValueError: the map is not of the image's size, or a segment's class is not in [0, K).
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
                "classes: category_id must be contiguous, from 0"
            )
        is_thing = bool(segment["isthing"]) if things is None else category in things
        color = colors[category] if colors else palette_color(category)
        if is_thing and not by_class:
            color = palette_color(num_things)
        num_things += is_thing
        name = names[category]
        if segment.get("score") is not None:
            name += f" {segment['score']:.0%}"
        if is_thing:
            regions.append(_Region(name, color, True, 0.5, 1.0))
        else:
            regions.append(_Region(name, calm(color), False, 0.4, 0.65))
    return _draw(image, _compact(id_map, [segment["id"] for segment in segments]), regions)


def _check_size(image: np.ndarray, labels: np.ndarray) -> None:
    if labels.shape != image.shape[:2]:
        raise ValueError(f"the map is {labels.shape}, the image {image.shape[:2]} (height, width)")


def _present(labels: np.ndarray) -> list[int]:
    """The distinct values, ascending."""
    low, high = int(labels.min()), int(labels.max())
    if high - low > 1 << 16:  # ids of panoptic PNG files have 24 bits
        return np.unique(labels).tolist()
    counts = np.zeros(high - low + 1, bool)
    counts[labels.reshape(-1) - low] = True
    return (np.flatnonzero(counts) + low).tolist()


def _compact(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """(H, W) of 1 + position of each pixel's value in `values`, 0 for other values."""
    dtype = np.uint8 if len(values) < 256 else np.int32
    low, high = int(labels.min()), int(labels.max())
    if high - low > 1 << 24:
        order = np.argsort(values)
        ordered = np.asarray(values)[order]
        position = np.searchsorted(ordered, labels).clip(max=len(values) - 1)
        return np.where(ordered[position] == labels, order[position] + 1, 0).astype(dtype)
    table = np.zeros(high - low + 1, dtype)
    for i, value in enumerate(values):
        table[value - low] = i + 1
    return table[labels - low]


def _draw(image: np.ndarray, index: np.ndarray, regions: Sequence[_Region]) -> Image.Image:
    """Paint and label regions; `index` (H, W) is 0 for none and from 1 for `regions`."""
    canvas, factor = make_canvas(image)
    if not regions:
        return canvas
    if factor > 1:
        index = index.repeat(factor, axis=0).repeat(factor, axis=1)
    _paint(canvas, index, regions, factor)
    style = LabelStyle.for_picture(canvas)
    anchors, names, colors = [], [], []
    for i, anchor in _anchors(index, regions):
        region = regions[i]
        label_area = style.width(region.name) * style.height
        # Where a label would hide more than it names, there is none.
        if anchor.area > (0.4 if region.is_thing else 1.5) * label_area:
            anchors.append(anchor)
            names.append(region.name)
            colors.append(region.color)
    draw_labels(canvas, anchors, names, colors, leave_out=True)
    return canvas


def _paint(canvas: Image.Image, index: np.ndarray, regions: Sequence[_Region], factor: int) -> None:
    """Fill all regions and strengthen them along their edges."""
    width = line_width(canvas)

    def opacity(values: list[float]) -> Image.Image:
        table = np.array([0, *(round(255 * v) for v in values)], np.uint8)
        return Image.fromarray(table[index])

    edge = Image.fromarray(_edges(index)).filter(ImageFilter.GaussianBlur(width / 2))
    # Of two pixels, what the blur leaves in the middle.
    peak = math.erf(1 / (width / 2) / math.sqrt(2))
    edge = edge.point([min(255, round(1.5 * v / peak)) for v in range(256)])
    alpha = opacity([r.line - r.fill for r in regions])
    alpha = ImageChops.add(opacity([r.fill for r in regions]), ImageChops.multiply(alpha, edge))

    table = np.array([(0, 0, 0), *(r.color for r in regions)], np.uint8)
    layer = Image.fromarray(table[index])
    # Void takes the image's colours, so that no other colour leaks in where the edge is softened.
    layer.paste(canvas, mask=Image.fromarray((index == 0).astype(np.uint8) * 255))
    soften = ImageFilter.GaussianBlur(max(0.25 * width, 0.5 * factor if factor > 1 else 0))
    canvas.paste(layer.filter(soften), mask=alpha.filter(soften))


def _edges(index: np.ndarray) -> np.ndarray:
    """(H, W) uint8: 255 on either side of where the region changes."""
    edges = np.zeros(index.shape, np.uint8)
    changes = (index[1:] != index[:-1]).astype(np.uint8) * 255
    edges[1:] |= changes
    edges[:-1] |= changes
    changes = (index[:, 1:] != index[:, :-1]).astype(np.uint8) * 255
    edges[:, 1:] |= changes
    edges[:, :-1] |= changes
    return edges


def _anchors(index: np.ndarray, regions: Sequence[_Region]) -> Iterator[tuple[int, LabelAnchor]]:
    """Positions in `regions` and where their labels may go: things, the largest first, then stuff.

    A region in several pieces has its label at the largest and, if it is stuff, at others that are
    nearly as large.
    """
    stride = math.ceil(max(index.shape) / _SEARCH_SIDE)
    offsets = [min(stride // 2, n - 1) for n in index.shape]
    small = index[offsets[0] :: stride, offsets[1] :: stride]
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
    yield from found


def _anchor(
    piece: np.ndarray, slices: tuple[slice, slice], stride: int, may_leave: bool
) -> LabelAnchor:
    """Where there is most room within a piece, given as a crop at 1/stride of the size."""
    rows, columns = slices
    room = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=(_LABEL_ASPECT, 1))
    y, x = np.unravel_index(np.argmax(room[1:-1, 1:-1]), piece.shape)
    return LabelAnchor(
        box=(
            columns.start * stride,
            rows.start * stride,
            columns.stop * stride,
            rows.stop * stride,
        ),
        area=float(piece.sum()) * stride**2,
        inside=((columns.start + int(x) + 0.5) * stride, (rows.start + int(y) + 0.5) * stride),
        may_leave=may_leave,
    )
