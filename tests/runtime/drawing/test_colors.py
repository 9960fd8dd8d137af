"""The palette under another measure of colour, and other simulations of colour blindness."""

import numpy as np
import pytest

from mask2former.structures import Classes
from mask2former_runtime.drawing.colors import (
    NUM_SHADES,
    class_color,
    palette_color,
    shade,
    shade_numbers,
)

# Vienot, Brettel and Mollon, "Digital video colourmaps for checking the legibility of displays by
# dichromats" (1999), on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopia": np.array(
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
    ),
}
# The least distances in CIELAB (1976) of the first N colours; people notice about 2.3.
LEAST = {
    "normal": {7: 25, 20: 12, 60: 5},
    "protanopia": {7: 20, 20: 10, 60: 5},
    "deuteranopia": {7: 17, 20: 10, 60: 4},
}


def lab(rgb: np.ndarray, sight: np.ndarray) -> np.ndarray:
    """CIELAB of sRGB colours (N, 3), 0 to 255, as seen with a kind of sight."""
    value = np.asarray(rgb) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = (linear @ sight.T).clip(0, 1)
    xyz = (
        linear
        @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    )
    t = xyz / [0.9505, 1, 1.089]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def least_distance(colors, sight: str) -> float:
    values = lab(np.array(colors), SIGHT[sight])
    distances = np.linalg.norm(values[:, None] - values, axis=-1)
    return distances[~np.eye(len(colors), dtype=bool)].min()


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_of_classes_are_far_apart(sight):
    for count, least in LEAST[sight].items():
        assert least_distance([palette_color(i) for i in range(count)], sight) > least, count


def test_the_first_colours_are_okabe_and_itos():
    assert {palette_color(i) for i in range(7)} == {
        (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
        (213, 94, 0), (204, 121, 167),
    }  # fmt: skip


def test_the_series_is_long_and_repeats():
    first = [palette_color(i) for i in range(256)]
    assert len(set(first)) == 256
    assert [palette_color(i) for i in range(256, 260)] == first[:4]


@pytest.mark.parametrize("index", range(0, 30, 3))
def test_shades_differ_from_each_other_and_belong_to_their_class(index):
    base = palette_color(index)
    shades = [shade(base, i) for i in range(NUM_SHADES)]
    assert shades[0] == base and shade(base, NUM_SHADES) == base
    assert least_distance(shades, "normal") > 4
    assert least_distance(shades[:4], "normal") > 8
    # Their hue is that of the class: within 15 degrees of OKLab, somewhat more in CIELAB.
    values = lab(np.array(shades), SIGHT["normal"])
    hues = np.degrees(np.arctan2(values[:, 2], values[:, 1]))
    assert (np.abs((hues - hues[0] + 180) % 360 - 180) < 32).all()


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (0, 0, 142)])
def test_shades_of_colours_of_data_sets(color):
    """Also black, white and grey have shades, which a screen can show."""
    shades = [shade(color, i) for i in range(NUM_SHADES)]
    assert all(0 <= v <= 255 and isinstance(v, int) for c in shades for v in c)
    assert least_distance(shades[:4], "normal") > 3


def test_colours_of_the_data_set_come_first():
    own = Classes(["a", "b"], range(2), colors=[(1, 2, 3), (4, 5, 6)])
    assert class_color(own, 1) == (4, 5, 6)
    assert class_color(Classes(["a", "b"], range(2)), 1) == palette_color(1)


def test_objects_of_a_class_are_numbered():
    assert shade_numbers([3, 1, 3, 3, 1]) == [0, 0, 1, 2, 1]
