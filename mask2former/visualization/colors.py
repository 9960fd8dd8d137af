"""A palette of colours that are easy to tell apart."""

import colorsys
import math

from ..structures import Color


def palette_color(index: int) -> Color:
    """Return one of an endless series of colours; neighbouring indices differ widely in hue."""
    hue = (0.58 + index * 0.6180339887) % 1.0
    # Three levels of lightness keep colours distinct when similar hues come up again.
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.8))[index // 8 % 3]
    # Saturated blue is so dark that its edges vanish in shadows.
    saturation *= 1 - 0.4 * math.exp(-(((hue - 0.67) / 0.06) ** 2))
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)


def calm(color: Color) -> Color:
    """Return the colour with less saturation, so that it does not draw the eye."""
    grey = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]
    r, g, b = (round(0.75 * c + 0.25 * grey) for c in color)
    return r, g, b
