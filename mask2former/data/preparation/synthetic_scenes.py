"""Draw one scene of the synthetic data set: textured, overlapping shapes on textured ground.

Every class has its own outline, texture and range of hues, as things in photographs do, so that a
small model can tell them apart after minutes of training. Sizes, rotations, shades and the ground
are drawn independently of the class.

Coordinates are continuous: pixel ``(row i, column j)`` covers the square from ``(j, i)`` to
``(j + 1, i + 1)``, as in COCO polygons.

Shapes:
    S: image side.
    h, w: height and width of a patch.
    V: outline vertices.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..datasets.synthetic_shapes import STUFF_CLASSES, THING_CLASSES

VOID = -1

_SUPERSAMPLING = 4
_PLACEMENT_ATTEMPTS = 20
# At least this share of a shape's area stays visible when others are placed over it, so that it can
# still be recognised.
_MIN_VISIBLE_FRACTION = 0.4
_DISK_VERTICES = 48
_RING_HOLE = 0.52
_STAR_INNER = 0.42


@dataclass(frozen=True)
class SceneInstance:
    """One visible shape.

    Attributes:
        class_index: index into `THING_CLASSES`.
        mask: (S, S) bool, the part that shapes drawn later do not cover.
        polygon: (V, 2) float outline in pixels, x before y, where the shape is a simple polygon
            that lies inside the image and is not occluded; otherwise None.
    """

    class_index: int
    mask: np.ndarray
    polygon: np.ndarray | None


@dataclass(frozen=True)
class Scene:
    """A drawn scene and its ground truth.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        instances: visible shapes, the lowest first.
        stuff: (S, S) int8, index into `STUFF_CLASSES` where the ground is visible and `VOID` under
            shapes, including those too small to be annotated.
    """

    image: np.ndarray
    instances: list[SceneInstance]
    stuff: np.ndarray


@dataclass
class _Shape:
    """A shape placed in the scene; `coverage` (h, w) in 0..1 lies at (`top`, `left`)."""

    class_index: int
    outline: np.ndarray
    coverage: np.ndarray
    top: int
    left: int

    def full_mask(self, size: int) -> np.ndarray:
        mask = np.zeros((size, size), dtype=bool)
        h, w = self.coverage.shape
        mask[self.top : self.top + h, self.left : self.left + w] = self.coverage >= 0.5
        return mask


def draw_scene(
    rng: np.random.Generator, size: int, *, min_visible_pixels: int = 30, max_shapes: int = 5
) -> Scene:
    """Draw a scene of 2 to `max_shapes` shapes.

    Args:
        rng: source of all randomness; the scene depends on nothing else.
        size: image side S in pixels. Shapes measure about 26/128 to 66/128 of it.
        min_visible_pixels: shapes with a smaller visible part are drawn but not annotated.
        max_shapes: largest number of shapes in a scene, at least 2.

    Returns:
        The image with its instances and ground.
    """
    image, stuff, ground_colors = _draw_ground(rng, size)
    shapes: list[_Shape] = []
    visible: list[np.ndarray] = []
    for _ in range(int(rng.integers(2, max_shapes + 1))):
        shape = _place_shape(rng, size, shapes, visible)
        if shape is None:
            continue
        mask = shape.full_mask(size)
        visible = [below & ~mask for below in visible] + [mask]
        shapes.append(shape)
        _paint(rng, image, shape, ground_colors)

    image += rng.normal(0.0, 3.0, image.shape).astype(np.float32)
    instances = []
    for shape, mask in zip(shapes, visible, strict=True):
        stuff[mask] = VOID
        if mask.sum() >= min_visible_pixels:
            instances.append(
                SceneInstance(shape.class_index, mask, _simple_polygon(shape, mask, size))
            )
    return Scene(image.clip(0, 255).round().astype(np.uint8), instances, stuff)


def _simple_polygon(shape: _Shape, visible: np.ndarray, size: int) -> np.ndarray | None:
    """Return the outline if it describes the visible part exactly, else None."""
    inside = shape.outline.min() >= 0 and shape.outline.max() <= size
    occluded = (shape.full_mask(size) != visible).any()
    has_hole = THING_CLASSES[shape.class_index] == "ring"
    return shape.outline if inside and not occluded and not has_hole else None


def _unit_outline(rng: np.random.Generator, name: str) -> np.ndarray:
    """Return the (V, 2) outline of a shape around the origin, with a radius of about 1."""
    if name in ("disk", "ring"):
        angles = np.linspace(0, 2 * np.pi, _DISK_VERTICES, endpoint=False)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if name == "rectangle":
        half = np.array([1.0, rng.uniform(0.6, 1.0)]) * 0.9
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    if name == "triangle":
        angles = np.arange(3) * 2 * np.pi / 3
        return 1.2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    angles = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.25, 1.25 * _STAR_INNER)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _place_shape(
    rng: np.random.Generator, size: int, shapes: list[_Shape], visible: list[np.ndarray]
) -> _Shape | None:
    """Draw class, size, rotation and position until enough of the shapes below stays visible."""
    full_areas = [(shape.coverage >= 0.5).sum() for shape in shapes]
    for _ in range(_PLACEMENT_ATTEMPTS):
        class_index = int(rng.integers(len(THING_CLASSES)))
        radius = rng.uniform(13.0, 30.0) * size / 128
        angle = rng.uniform(0, 2 * np.pi)
        # Up to a third of the radius may lie outside the image.
        center = rng.uniform(0.67 * radius, size - 0.67 * radius, size=2)
        rotation = np.array(
            [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=np.float64
        )
        outline = radius * _unit_outline(rng, THING_CLASSES[class_index]) @ rotation + center
        shape = _rasterize(class_index, outline, center, size)
        mask = shape.full_mask(size)
        if all(
            (below & ~mask).sum() >= _MIN_VISIBLE_FRACTION * area
            for below, area in zip(visible, full_areas, strict=True)
        ):
            return shape
    return None


def _rasterize(class_index: int, outline: np.ndarray, center: np.ndarray, size: int) -> _Shape:
    """Compute the coverage of each pixel of the shape's box by supersampling."""
    left, top = np.floor(outline.min(axis=0)).astype(int).clip(0, size - 1)
    right, bottom = np.ceil(outline.max(axis=0)).astype(int).clip(1, size)
    canvas = Image.new("L", ((right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)

    def fill(points: np.ndarray, value: int) -> None:
        # Pillow puts integer coordinates at the centres of pixels; here they are at the corners.
        subpixels = (points - (left, top)) * _SUPERSAMPLING - 0.5
        draw.polygon([tuple(p) for p in subpixels.tolist()], fill=value)

    fill(outline, 255)
    if THING_CLASSES[class_index] == "ring":
        fill(center + (outline - center) * _RING_HOLE, 0)
    coverage = np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32) / 255.0
    return _Shape(class_index, outline, coverage, int(top), int(left))


def _paint(
    rng: np.random.Generator, image: np.ndarray, shape: _Shape, ground_colors: list[np.ndarray]
) -> None:
    """Blend the shape, in the texture of its class, into `image` in place."""
    h, w = shape.coverage.shape
    first, second = _distinct_colors(rng, shape.class_index, ground_colors)
    mix = _TEXTURES[shape.class_index](rng, h, w)[..., None]  # (h, w, 1)
    texture = first * (1 - mix) + second * mix  # (h, w, 3)
    patch = image[shape.top : shape.top + h, shape.left : shape.left + w]
    patch += shape.coverage[..., None] * (texture - patch)


def _distinct_colors(
    rng: np.random.Generator, class_index: int, grounds: list[np.ndarray], distance: float = 80.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw two RGB colours whose mixtures all differ visibly from the colours of the ground.

    Args:
        rng: source of randomness.
        class_index: index into `THING_CLASSES`; hues of neighbouring classes overlap a little.
        grounds: RGB colours, each (3,).
        distance: smallest Euclidean distance, of values in 0..255.
    """
    while True:
        hue = (class_index + rng.uniform(-0.6, 0.6)) / len(THING_CLASSES) % 1.0
        bright = colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.0))
        first = np.array(bright, dtype=np.float32) * 245
        second = first * rng.uniform(0.3, 0.7)
        mixtures = first + np.linspace(0, 1, 5)[:, None] * (second - first)  # (5, 3)
        if all(np.linalg.norm(mixtures - ground, axis=1).min() >= distance for ground in grounds):
            return first, second


def _draw_ground(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return the (S, S, 3) ground, its (S, S) stuff indices and the mean colour of each stuff."""
    colors = [rng.uniform(50, 205, size=3).astype(np.float32) for _ in STUFF_CLASSES]
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5

    # Smooth: a slow gradient. Rough: grain of two or three pixels.
    smooth = _gradient(rng, size, size) - 0.5
    grain = _noise(rng, size, size, cell=float(rng.uniform(1.5, 3.0))) - 0.5
    paper = colors[0] + 50.0 * smooth[..., None]
    gravel = colors[1] + 80.0 * grain[..., None]

    # A wavy line through the image separates the two; a quarter of the scenes have only one.
    angle = rng.uniform(0, 2 * np.pi)
    offset = rng.uniform(-0.3, 0.3) if rng.random() < 0.75 else rng.choice([-1.0, 1.0])
    along = (xs - size / 2) * np.cos(angle) + (ys - size / 2) * np.sin(angle)
    across = (ys - size / 2) * np.cos(angle) - (xs - size / 2) * np.sin(angle)
    wave = rng.uniform(0.01, 0.06) * np.sin(
        along / size * rng.uniform(4, 14) + rng.uniform(0, 2 * np.pi)
    )
    signed = across - (offset + wave) * size  # pixels, positive on the gravel
    alpha = (signed + 0.5).clip(0, 1)[..., None].astype(np.float32)
    ground = (paper * (1 - alpha) + gravel * alpha).astype(np.float32)
    return ground, (signed > 0).astype(np.int8), colors


# Textures return (h, w) float32 in 0..1, the share of the second of two colours.


def _plain(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    return np.zeros((h, w), dtype=np.float32)


def _gradient(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[0:h, 0:w].astype(np.float32)
    ramp = xs * np.cos(angle) + ys * np.sin(angle)
    return ((ramp - ramp.min()) / max(np.ptp(ramp), 1.0)).astype(np.float32)


def _waves(rng: np.random.Generator, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two perpendicular waves in -1..1 of one random period and direction."""
    angle = rng.uniform(0, 2 * np.pi)
    frequency = 2 * np.pi / rng.uniform(5.0, 12.0)
    phase = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[0:h, 0:w].astype(np.float32)
    first = np.sin(frequency * (xs * np.cos(angle) + ys * np.sin(angle)) + phase)
    second = np.sin(frequency * (ys * np.cos(angle) - xs * np.sin(angle)) + phase)
    return first, second


def _stripes(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    # A steep but continuous step keeps the edges anti-aliased.
    return (0.5 + 2.0 * _waves(rng, h, w)[0]).clip(0, 1).astype(np.float32)


def _checks(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    first, second = _waves(rng, h, w)
    return (0.5 + 3.0 * first * second).clip(0, 1).astype(np.float32)


def _noise(rng: np.random.Generator, h: int, w: int, cell: float | None = None) -> np.ndarray:
    """Draw smooth noise with blobs of about `cell` pixels."""
    cell = float(rng.uniform(2.0, 5.0)) if cell is None else cell
    coarse = rng.random((int(h / cell) + 2, int(w / cell) + 2), dtype=np.float32)
    fine = Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)
    return np.asarray(fine).clip(0, 1)


# In the order of `THING_CLASSES`.
_TEXTURES: tuple[Callable[[np.random.Generator, int, int], np.ndarray], ...] = (
    _gradient,
    _plain,
    _checks,
    _noise,
    _stripes,
)
