"""Regions are painted in their colours, on their pixels only, and labelled where there is room."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from mask2former.visualization import draw_panoptic, draw_semantic, palette_color, shade
from mask2former_runtime.drawing.labels import LabelStyle

H, W = 600, 800
NAMES = ["sky", "road", "car", "person"]
COLORS = [(0, 60, 255), (200, 30, 40), (20, 220, 30), (240, 200, 0)]
# How far from an edge, in pixels, its line and its soft border reach at most.
MARGIN = 12


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (H, W, 3), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    """Sky over road, with a car, a person and an unlabelled frame around the image."""
    labels = np.full((H, W), 255, np.uint8)
    labels[40:300, 40:-40] = 0
    labels[300:-40, 40:-40] = 1
    rows, columns = np.mgrid[:H, :W]
    labels[(rows - 400) ** 2 + (columns - 250) ** 2 < 90**2] = 2
    labels[(rows - 300) ** 2 + (columns - 600) ** 2 < 70**2] = 3
    return labels


@pytest.fixture
def segments(labels) -> tuple[np.ndarray, list[dict]]:
    """The same as panoptic segments, with one more car."""
    ids = np.array([7, 9, 300, 70000], np.int32)[np.where(labels == 255, 0, labels)]
    ids[labels == 255] = 0
    ids[420:520, 500:700] = 4
    info = [
        {"id": 7, "category_id": 0, "isthing": False},
        {"id": 9, "category_id": 1, "isthing": False},
        {"id": 300, "category_id": 2, "isthing": True},
        {"id": 70000, "category_id": 3, "isthing": True},
        {"id": 4, "category_id": 2, "isthing": True},
    ]
    return ids, info


def changed(a, b) -> np.ndarray:
    return (np.asarray(a).astype(int) != np.asarray(b)).any(-1)


def interior(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_erosion(mask, iterations=MARGIN, border_value=1)


def hue_of(picture: np.ndarray, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The colour c and opacity o of `picture = (1 - o) image + o c`, by least squares."""
    before, after = image[mask].astype(float), picture[mask].astype(float)
    slope = np.polyfit(before.ravel(), (after - after.mean(0) + before.mean(0)).ravel(), 1)[0]
    return np.append((after - slope * before).mean(0) / (1 - slope), 1 - slope)


def unnamed(count: int) -> list[str]:
    return [""] * count


def test_classes_have_their_colours_and_the_rest_is_unchanged(image, labels):
    picture = np.asarray(draw_semantic(image, labels, unnamed(4), COLORS))
    for c, color in enumerate(COLORS):
        *found, opacity = hue_of(picture, image, interior(labels == c))
        np.testing.assert_allclose(found, color, atol=3)
        assert 0.4 < opacity < 0.6
    assert not changed(image, picture)[interior(labels == 255)].any()


def test_default_colours_are_those_of_the_palette(image, labels):
    picture = np.asarray(draw_semantic(image, labels, unnamed(4)))
    *found, _ = hue_of(picture, image, interior(labels == 3))
    np.testing.assert_allclose(found, palette_color(3), atol=3)


def test_edges_are_stronger_than_the_regions_inside(labels):
    grey = np.full((H, W, 3), 128, np.uint8)
    picture = np.asarray(draw_semantic(grey, labels, unnamed(4), COLORS)).astype(int)
    for c, color in enumerate(COLORS):
        region = labels == c
        rim = region & ~ndimage.binary_erosion(region)
        distance = np.abs(picture - color).sum(-1)
        assert distance[rim].mean() < 0.8 * distance[interior(region)].mean()


def test_no_other_colour_appears_at_edges(labels):
    """White on white stays white, also at the border with unlabelled pixels."""
    white = np.full((H, W, 3), 255, np.uint8)
    picture = draw_semantic(white, labels, unnamed(4), [(255, 255, 255)] * 4)
    assert not changed(picture, white).any()


@pytest.mark.parametrize("colors", [COLORS, None])
def test_classes_have_one_colour_and_their_things_shades_of_it(image, segments, colors):
    ids, info = segments
    picture = np.asarray(draw_panoptic(image, ids, info, unnamed(4), colors=colors))
    found = {
        segment["id"]: hue_of(picture, image, interior(ids == segment["id"])) for segment in info
    }
    base = colors or [palette_color(i) for i in range(4)]
    expected = {7: base[0], 9: base[1], 300: base[2], 70000: base[3], 4: shade(base[2], 1)}
    for segment_id, color in expected.items():
        np.testing.assert_allclose(found[segment_id][:3], color, atol=4)
    assert found[7][3] < found[300][3]  # things stand out
    assert not changed(image, picture)[interior(ids == 0)].any()


def test_crowds_are_striped(image, segments):
    ids, info = segments
    crowds = [{**segment, "iscrowd": int(segment["id"] == 300)} for segment in info]
    plain, striped = (
        np.asarray(draw_panoptic(image, ids, s, unnamed(4))).astype(int) for s in (info, crowds)
    )
    inside = interior(ids == 300)
    change = np.abs(striped - image).sum(-1)[inside], np.abs(plain - image).sum(-1)[inside]
    assert 0.3 < (change[0] < 0.5 * change[1]).mean() < 0.6
    assert 0.3 < (change[0] > change[1]).mean() < 0.7
    others = ~ndimage.binary_dilation(ids == 300, iterations=MARGIN)
    np.testing.assert_array_equal(striped[others], plain[others])


def test_things_can_be_given_colours(image, segments):
    ids, info = segments
    colors = {300: (1, 200, 3), 70000: (250, 4, 5), 4: (6, 7, 180)}
    picture = np.asarray(draw_panoptic(image, ids, info, unnamed(4), thing_colors=colors))
    for thing, color in colors.items():
        *found, _ = hue_of(picture, image, interior(ids == thing))
        np.testing.assert_allclose(found, color, atol=4)


def test_thing_classes_can_be_given_instead_of_isthing(image, segments):
    ids, info = segments
    bare = [{k: v for k, v in segment.items() if k != "isthing"} for segment in info]
    expected = draw_panoptic(image, ids, info, NAMES)
    assert not changed(draw_panoptic(image, ids, bare, NAMES, {2, 3}), expected).any()
    # They replace what the segments say.
    assert changed(draw_panoptic(image, ids, info, NAMES, {0, 1, 2, 3}), expected).any()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_every_integer_type(image, labels, dtype):
    ignore = np.array(255).astype(dtype).item()  # -1 for int8
    picture = draw_semantic(image, labels.astype(dtype), NAMES, ignore_label=ignore)
    assert not changed(picture, draw_semantic(image, labels, NAMES)).any()


def test_ids_without_a_segment_and_segments_without_a_pixel(image, segments):
    ids, info = segments
    absent = {"id": 12345, "category_id": 2, "isthing": True}
    expected = draw_panoptic(image, ids, info, NAMES)
    # The absent segment is first in the list, but does not use up a colour.
    assert not changed(draw_panoptic(image, ids, [absent, *info], NAMES), expected).any()
    no_car = [segment for segment in info if segment["id"] != 300]
    picture = draw_panoptic(image, ids, no_car, unnamed(4))
    assert not changed(image, picture)[interior(ids == 300)].any()


@pytest.mark.parametrize("segment_id", [0, 3])
def test_nothing_to_draw(image, segment_id):
    ids = np.full((H, W), segment_id)
    assert not changed(draw_panoptic(image, ids, [], NAMES), image).any()
    assert not changed(draw_semantic(image, np.full((H, W), 255), NAMES), image).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 2), (41, 63), (1, 3000), (1301, 3)])
def test_small_and_thin_images(size):
    """They are enlarged by a whole factor, so that labels can be read."""
    image = np.full((*size, 3), 128, np.uint8)
    labels = np.indices(size).sum(0) // 3 % 2
    info = [{"id": 1, "category_id": 0, "isthing": True}]
    for picture in (
        draw_semantic(image, labels, ["cat", "dog"]),
        draw_panoptic(image, labels, info, ["cat", "dog"]),
    ):
        factor = picture.width // size[1]
        assert picture.size == (size[1] * factor, size[0] * factor)
        assert max(picture.size) >= 512
        assert factor == 1 or max(size) * (factor - 1) < 512


def test_segments_of_one_pixel(image):
    """They are visible and have no label, and no distant pixel changes."""
    ids = np.zeros((H, W), np.int32)
    ids[100, 200], ids[0, 0], ids[-1, -1] = 1, 2, 3
    info = [{"id": i, "category_id": 2, "isthing": True} for i in (1, 2, 3)]
    touched = changed(draw_panoptic(image, ids, info, NAMES), image)
    assert touched[ids > 0].all()
    assert not touched[ndimage.distance_transform_edt(ids == 0) > MARGIN].any()


def label_box(draw, name: str) -> tuple[int, int, int, int] | None:
    """Return x0, y0, x1, y1 of the pixels that a label changes."""
    rows, columns = np.nonzero(changed(draw(name), draw("")))
    if len(rows) == 0:
        return None
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
@pytest.mark.parametrize("size", [20, 120])
def test_labels_of_things_at_corners_are_complete(image, corner, size):
    ids = np.zeros((H, W), np.uint8)
    rows = slice(0, size) if "top" in corner else slice(H - size, H)
    columns = slice(0, size) if "left" in corner else slice(W - size, W)
    ids[rows, columns] = 1

    def draw(name):
        return draw_panoptic(image, ids, [{"id": 1, "category_id": 0, "isthing": True}], [name])

    x0, y0, x1, y1 = label_box(draw, "a long name")
    style = LabelStyle.for_picture(draw(""))
    assert x1 - x0 == pytest.approx(style.width("a long name"), abs=2)
    assert y1 - y0 == pytest.approx(style.height, abs=2)


def test_the_label_of_stuff_lies_within_its_largest_piece(image):
    labels = np.full((H, W), 255, np.uint8)
    labels[50:90, 50:250] = 0
    labels[200:500, 300:700] = 0  # a ring: its middle is not road
    labels[240:460, 340:660] = 255

    x0, y0, x1, y1 = label_box(lambda name: draw_semantic(image, labels, [name]), "road")
    assert (labels[y0:y1, x0:x1] == 0).mean() > 0.95
    assert y0 >= 200


def test_pieces_of_similar_size_are_each_labelled(image):
    labels = np.full((H, W), 255, np.uint8)
    labels[50:250, 50:250] = 0
    labels[350:530, 500:700] = 0
    labels[100:140, 600:700] = 0  # smaller
    touched = changed(draw_semantic(image, labels, ["road"]), draw_semantic(image, labels, [""]))
    assert touched[:300, :400].any()
    assert touched[300:].any()
    assert not touched[:300, 400:].any()


def test_slivers_of_stuff_have_no_label(image):
    labels = np.full((H, W), 255, np.uint8)
    labels[300:303, 100:400] = 0
    assert label_box(lambda name: draw_semantic(image, labels, [name]), "grass") is None


def test_thin_regions_are_in_the_legend_and_not_in_the_sky(image):
    """A pole that is long enough for a label, but much thinner."""
    labels = np.zeros((H, W), np.uint8)
    labels[100:, 396:404] = 1
    bare = np.asarray(draw_semantic(image, labels, ["sky", "pole"], COLORS))
    unnamed_pole = np.asarray(draw_semantic(image, labels, ["sky", ""], COLORS))
    assert not changed(bare, unnamed_pole).any()
    full = np.asarray(draw_semantic(image, labels, ["sky", "pole"], COLORS, legend=True))
    np.testing.assert_array_equal(full[:H], bare)
    strip = full[H:]
    assert 0 < len(strip) < 60
    assert (strip == COLORS[1]).all(-1).any() and not (strip == COLORS[0]).all(-1).any()


@pytest.mark.parametrize("angle", [20, 45, 70])
def test_labels_of_thin_things_touch_them(image, angle):
    """The middle of the box around a slanting thing, or of its sides, may be far from it."""
    rows, columns = np.mgrid[:H, :W] - np.array([H / 2, W / 2])[:, None, None]
    sin, cos = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    along, across = rows * sin + columns * cos, columns * sin - rows * cos
    ids = ((np.abs(across) < 4) & (np.abs(along) < 250)).astype(np.int32)
    ids[(along > 200) & (np.abs(across) < 60) & (along < 250)] = 1  # like a T
    info = [{"id": 1, "category_id": 0, "isthing": True}]
    box = label_box(lambda name: draw_panoptic(image, ids, info, [name]), "racket")
    x0, y0, x1, y1 = box
    height = y1 - y0
    near = ids[
        max(0, y0 - height // 2) : y1 + height // 2, max(0, x0 - height // 2) : x1 + height // 2
    ]
    assert near.any()


def test_labels_do_not_cover_each_other_or_other_things(image):
    """Nine things in a grid, each with room for a label above it."""
    ids = np.zeros((H, W), np.int32)
    for i in range(9):
        y, x = 80 + 180 * (i // 3), 100 + 250 * (i % 3)
        ids[y : y + 60, x : x + 40] = i + 1
    info = [{"id": i + 1, "category_id": i, "isthing": True} for i in range(9)]

    def draw(names):
        return draw_panoptic(image, ids, info, names)

    plain, names = draw(unnamed(9)), [f"thing {i}" for i in range(9)]
    touched = changed(draw(names), plain)
    assert not touched[ids > 0].any()
    pieces, count = ndimage.label(touched, structure=np.ones((3, 3)))
    assert count == 9
    alone = [changed(draw([n if i == k else "" for k, n in enumerate(names)]), plain).sum()
             for i in range(9)]  # fmt: skip
    np.testing.assert_allclose(np.sort(np.bincount(pieces.ravel())[1:]), np.sort(alone), rtol=0.02)


def test_scores_of_things_are_written(image, segments):
    ids, info = segments
    scored = [{**segment, "score": 0.97} for segment in info]
    expected = draw_panoptic(image, ids, info, [*NAMES[:2], *(f"{n} 97%" for n in NAMES[2:])])
    assert not changed(draw_panoptic(image, ids, scored, NAMES), expected).any()


def test_memory_does_not_grow_with_the_number_of_regions(image):
    ids = np.arange(H * W).reshape(H, W) // 1600  # 300 regions
    info = [{"id": i, "category_id": i % 4, "isthing": i % 2 == 0} for i in range(300)]
    tracemalloc.start()
    draw_panoptic(image, ids, info, NAMES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * H * W


def test_bad_maps_are_rejected(image, labels, segments):
    ids, info = segments
    with pytest.raises(ValueError, match=r"the map is \(300, 800\), the image \(600, 800\)"):
        draw_semantic(image, labels[:300], NAMES)
    with pytest.raises(ValueError, match="label 3, but there are 3 classes"):
        draw_semantic(image, labels, NAMES[:3])
    with pytest.raises(ValueError, match="label 255, but there are 4 classes"):
        draw_semantic(image, labels, NAMES, ignore_label=None)
    with pytest.raises(ValueError, match="integers, not float32"):
        draw_semantic(image, labels.astype(np.float32), NAMES)
    with pytest.raises(ValueError, match="segment 70000 is of class 3, but there are 3"):
        draw_panoptic(image, ids, info, NAMES[:3])
    with pytest.raises(ValueError, match="more than 2"):
        draw_panoptic(image, ids.astype(np.int64) << 30, info, NAMES)
