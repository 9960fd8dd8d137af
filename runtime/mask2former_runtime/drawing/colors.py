"""The palette: colours for classes, and shades of them for the objects of a class.

Distances between colours are Euclidean in OKLab (Björn Ottosson, "A perceptual color space for
image processing", 2020), where 0.02 is about the least that people notice. Simulations of colour
blindness are those of Machado, Oliveira and Fernandes ("A physiologically-based model for
simulation of color vision deficiency", 2009) at full severity.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from ..classes import Classes, Color

# Okabe and Ito, "Color universal design" (2008), without black, which vanishes in shadows; in an
# order in which each is far from those before it.
_OKABE_ITO = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
# Data sets have up to some hundred classes. Later ones have these colours again.
_SIZE = 256
# Darker and lighter colours vanish on photographs, greys look like the photograph itself, and the
# strongest colours hurt.
_LIGHTNESS = 0.47, 0.9
_CHROMA = 0.055, 0.22
_GRID = 18  # candidates per channel

_PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)
_DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Shades of a colour lie in a window of lightness around it and within an angle of its hue.
_WINDOW, _DARKEST, _LIGHTEST = 0.3, 0.38, 0.92
_TURN = math.radians(15)
NUM_SHADES = 7


def palette_color(index: int) -> Color:
    """Return one of an endless series of colours, which repeats after 256.

    Each of the first ones is as far as possible from all before it, for people with and without a
    red-green colour blindness.
    """
    return _palette()[index % _SIZE]


def shade(color: Color, number: int) -> Color:
    """Return a shade of a colour for an object of a class; number 0 is the colour itself.

    There are `NUM_SHADES` of each colour, and each of them is far from all before it.
    """
    return _shades(color)[number % NUM_SHADES]


def class_color(classes: Classes, index: int) -> Color:
    """Return the colour of a class: that of the data set if it has colours, or of the palette."""
    return classes.colors[index] if classes.colors else palette_color(index)


def shade_numbers(categories: Iterable[int]) -> list[int]:
    """Number the objects of each class from 0, in their order; see `shade`."""
    count: Counter[int] = Counter()
    numbers = []
    for category in categories:
        numbers.append(count[category])
        count[category] += 1
    return numbers


@cache
def _palette() -> tuple[Color, ...]:
    steps = np.linspace(0, 255, _GRID).round().astype(int)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _to_oklab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] >= _LIGHTNESS[0]) & (lab[:, 0] <= _LIGHTNESS[1])
    usable &= (chroma >= _CHROMA[0]) & (chroma <= _CHROMA[1])
    return _extend(_OKABE_ITO, rgb[usable], _SIZE)


@cache
def _shades(color: Color) -> tuple[Color, ...]:
    L, a, b = _to_oklab(np.array(color)).tolist()
    # Very light and very dark colours have most shades on one side.
    low = min(max(L - _WINDOW / 2, _DARKEST), _LIGHTEST - _WINDOW)
    candidates = []
    for lightness in np.linspace(low, low + _WINDOW, 7):
        for turn in np.linspace(-_TURN, _TURN, 3):
            cos, sin = math.cos(turn), math.sin(turn)
            candidates.append(_displayable(lightness, a * cos - b * sin, a * sin + b * cos))
    return _extend((color,), np.array(candidates), NUM_SHADES)


def _extend(first: Sequence[Color], candidates: np.ndarray, size: int) -> tuple[Color, ...]:
    """Add to the first colours, each time, the candidate that is farthest from all before it.

    Args:
        first: colours to begin with.
        candidates: (N, 3), sRGB.
        size: number of colours to return.
    """
    views = _views(candidates)
    nearest = np.full(len(candidates), np.inf)
    found: list[Color] = []
    while len(found) < size:
        if len(found) < len(first):
            color = first[len(found)]
        else:
            r, g, b = candidates[int(np.argmax(nearest))].tolist()
            color = r, g, b
        found.append(color)
        distances = np.linalg.norm(views - _views(np.array([color])), axis=-1)  # (3, N)
        nearest = np.minimum(nearest, distances.min(0))
    return tuple(found)


def _views(rgb: np.ndarray) -> np.ndarray:
    """Return (3, N, 3): OKLab of N colours for normal sight, protanopia and deuteranopia."""
    linear = _linear(rgb)
    seen = [linear, linear @ _PROTANOPIA.T, linear @ _DEUTERANOPIA.T]
    return np.stack([_linear_to_oklab(view.clip(0, 1)) for view in seen])


def _linear(rgb: np.ndarray) -> np.ndarray:
    """Return linear light, 0 to 1, of sRGB values, 0 to 255."""
    values = np.asarray(rgb, float) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _linear_to_oklab(linear: np.ndarray) -> np.ndarray:
    return np.cbrt(linear @ _LMS.T) @ _OKLAB.T


def _to_oklab(rgb: np.ndarray) -> np.ndarray:
    return _linear_to_oklab(_linear(rgb))


def _displayable(lightness: float, a: float, b: float) -> Color:
    """Return sRGB values of an OKLab colour, with less chroma if a screen cannot show it."""
    for share in np.linspace(1, 0, 21):
        lab = np.array([lightness, share * a, share * b])
        linear = np.linalg.solve(_LMS, np.linalg.solve(_OKLAB, lab) ** 3)
        if linear.min() >= -1e-3 and linear.max() <= 1 + 1e-3:
            break
    linear = linear.clip(0, 1)
    values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    r, g, b_ = (255 * values).round().astype(int).tolist()
    return r, g, b_
