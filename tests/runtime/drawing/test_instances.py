"""Masks are drawn in their places; labels stay in the picture and clear of each other."""

import numpy as np
import pytest

from mask2former.visualization import draw_instances, palette_color
from mask2former_runtime.drawing.labels import least_overlap, moved_inside


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def changed(image: np.ndarray, picture) -> np.ndarray:
    return (np.asarray(picture).astype(int) != image).any(-1)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (600, 800, 3), dtype=np.uint8)


def test_a_mask_is_filled_and_nothing_else_is_touched(image):
    mask = disc(600, 800, 300, 400, 150)
    picture = draw_instances(image, mask[None], [""], [(255, 0, 0)])
    assert picture.size == (800, 600)
    touched = changed(image, picture)
    assert touched[mask].mean() > 0.99
    assert not touched[~disc(600, 800, 300, 400, 160)].any()


def test_the_edge_is_centred_on_the_edge_of_the_mask():
    """On black, the colour is strongest at the edge, and equally strong on both sides of it."""
    mask = np.zeros((600, 800), bool)
    mask[:, 400:] = True
    black = np.zeros((600, 800, 3), np.uint8)
    row = np.asarray(draw_instances(black, mask[None], [""], [(255, 0, 0)]))[100, :, 0].astype(int)
    assert row[[399, 400]].min() > 230
    assert row[[395, 404]].max() < 130
    assert 90 < row[700] < 130
    assert row[:380].max() == 0


def test_small_masks_are_on_top(image):
    masks = np.stack([disc(600, 800, 300, 400, 30), disc(600, 800, 300, 400, 200)])
    gray = np.full_like(image, 100)
    for order in ([0, 1], [1, 0]):
        colors = [((0, 255, 0), (255, 0, 0))[i] for i in order]
        pixel = np.asarray(draw_instances(gray, masks[order], ["", ""], colors))[285, 400]
        assert pixel[1] > pixel[0]


def test_colours_below_do_not_shine_through():
    grey = np.full((600, 800, 3), 100, np.uint8)
    masks = [disc(600, 800, 300, 400, radius) for radius in (200, 60)]
    alone = draw_instances(grey, masks[1:], [""], [(0, 255, 0)])
    both = draw_instances(grey, masks, ["", ""], [(255, 0, 0), (0, 255, 0)])
    inside = disc(600, 800, 300, 400, 50)
    np.testing.assert_array_equal(np.asarray(both)[inside], np.asarray(alone)[inside])


def test_no_instances_and_empty_masks_change_nothing(image):
    none = np.zeros((0, 600, 800), bool)
    assert not changed(image, draw_instances(image, none, [], [])).any()
    empty = np.zeros((1, 600, 800), bool)
    assert not changed(image, draw_instances(image, empty, ["cat"], [(255, 0, 0)])).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 2), (40, 60)])
def test_small_and_thin_images(size):
    """They are enlarged by a whole factor, so that labels can be read."""
    image = np.full((*size, 3), 128, np.uint8)
    picture = draw_instances(image, np.ones((1, *size), bool), ["cat 97%"], [palette_color(0)])
    factor = picture.width // size[1]
    assert picture.size == (size[1] * factor, size[0] * factor)
    assert max(picture.size) >= 512
    assert factor == 1 or max(size) * (factor - 1) < 512


def test_a_label_moves_into_the_picture_and_away_from_others():
    at_corner = (-30.0, -5.0, 50.0, 15.0)
    inside = moved_inside(at_corner, 200, 100)
    assert inside == (0, 0, 80, 20)
    assert moved_inside((150, 90, 230, 110), 200, 100) == (119, 79, 199, 99)
    assert least_overlap([inside], []) == inside
    beside = (100.0, 50.0, 180.0, 70.0)
    assert least_overlap([inside, beside], [(0, 0, 80, 20)]) == beside


def test_stripes_let_the_image_through():
    """About half of a crowd is nearly as it was; the outline stays."""
    grey = np.full((600, 800, 3), 100, np.uint8)
    mask = disc(600, 800, 300, 400, 200)
    inside = disc(600, 800, 300, 400, 185)
    plain, striped = (
        np.asarray(draw_instances(grey, mask[None], [""], [(255, 0, 0)], striped=s))[:, :, 0]
        for s in ((), (0,))
    )
    assert np.ptp(plain[inside]) == 0
    strong = striped[inside] == plain[inside][0]
    assert 0.4 < strong.mean() < 0.6
    assert (striped[inside][~strong] < 120).all()
    rim = mask & ~disc(600, 800, 300, 400, 199)
    assert (striped[rim] > 150).mean() > 0.95


def test_instances_without_a_label_are_in_the_legend():
    """A hundred cats are too many for labels, the dog is not."""
    grey = np.full((600, 800, 3), 100, np.uint8)
    masks = [disc(600, 800, 30 + 8 * (i // 10), 40 + 8 * (i % 10), 4) for i in range(100)]
    masks.append(disc(600, 800, 400, 500, 120))
    names = [*["cat"] * 100, "dog"]
    colors = [*[(255, 0, 0)] * 100, (0, 0, 255)]
    bare = draw_instances(grey, masks, names, colors)
    picture = draw_instances(grey, masks, names, colors, names=names)
    assert picture.width == 800 and 600 < picture.height < 700
    np.testing.assert_array_equal(np.asarray(picture)[:600], np.asarray(bare))
    strip = np.asarray(picture)[600:]
    assert (strip == (255, 0, 0)).all(-1).any()
    assert not (strip == (0, 0, 255)).all(-1).any()
    one = draw_instances(grey, masks[-1:], ["dog"], colors[-1:], names=["dog"])
    assert one.size == (800, 600)
