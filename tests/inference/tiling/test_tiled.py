"""Tiled results against the known objects of mosaics, and one tile against the plain run."""

from dataclasses import replace

import numpy as np
import pytest
from mosaics import Mosaic, Oracle, random_mosaic

from mask2former import Mask2Former
from mask2former.inference.tiling.grid import Tiling
from mask2former.inference.tiling.tiled import TiledSegmenter
from mask2former_runtime import bit_planes
from mask2former_runtime.maps import box_of

OVERLAPS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


def mosaic_of(seed: int) -> tuple[Mosaic, Tiling]:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(60, 280, 2).tolist()
    mosaic = random_mosaic(rng, (height, width), 40)
    return mosaic, Tiling(int(rng.integers(48, 160)), OVERLAPS[seed % len(OVERLAPS)])


def find(task: str, mosaic: Mosaic, tiling: Tiling):
    return TiledSegmenter(Oracle(task), tiling).find(mosaic.image)


@pytest.mark.parametrize("seed", range(14))
def test_each_instance_is_found_once_and_whole(seed):
    mosaic, tiling = mosaic_of(seed)
    found = find("instance", mosaic, tiling)
    expected = mosaic.masks()
    places = {mask.tobytes(): n for n, mask in expected.items()}
    numbers = [places.get(found.mask(i).tobytes()) for i in range(len(found))]
    assert sorted(expected) == sorted(numbers)
    np.testing.assert_array_equal(found.labels, [mosaic.labels[n] for n in numbers])
    np.testing.assert_allclose(found.scores, [1 / (1 + n) for n in numbers])  # descending
    assert (np.diff(found.scores) <= 0).all()
    for i, (left, top, right, bottom) in enumerate(found.boxes.astype(int)):
        rows, columns = np.nonzero(found.mask(i))
        assert (top, bottom) == (rows.min(), rows.max() + 1)
        assert (left, right) == (columns.min(), columns.max() + 1)


@pytest.mark.parametrize("seed", range(14))
def test_segments_have_one_id_each(seed):
    mosaic, tiling = mosaic_of(seed)
    found = find("panoptic", mosaic, tiling)
    pairs = np.unique(np.stack([found.segment_map, mosaic.numbers]).reshape(2, -1), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] == len(found)
    assert sorted(found.ids) == np.unique(found.segment_map).tolist()
    np.testing.assert_array_equal(found.label_map, np.array(mosaic.labels)[mosaic.numbers])
    assert found.things == [label > 0 for label in found.labels]


@pytest.mark.parametrize("seed", range(14))
def test_scores_that_do_not_depend_on_the_tile_give_the_plain_classes(seed):
    mosaic, tiling = mosaic_of(seed)
    scores = np.random.default_rng(seed).permutation(256)  # by colour, all different

    class ByColor(Oracle):
        def class_scores(self, image):
            shifted = [scores[(image[..., 0].astype(int) + 31 * k) % 256] for k in range(4)]
            return np.stack(shifted).astype(np.float32)

    oracle = ByColor("semantic")
    found = TiledSegmenter(oracle, tiling).find(mosaic.image)
    np.testing.assert_array_equal(found.label_map, oracle.class_scores(mosaic.image).argmax(0))


def test_scores_are_blended_by_the_distance_from_the_tiles_borders():
    """Against the weighted mean over tiles, written as loops."""
    rng = np.random.default_rng(0)
    by_tile = iter(all_scores := rng.random((9, 3, 40, 40), np.float32))
    oracle = Oracle("semantic")
    oracle.class_scores = lambda image: next(by_tile)
    found = TiledSegmenter(oracle, Tiling(40, 0.5)).find(np.zeros((80, 80, 3), np.uint8))
    expected = np.zeros((3, 80, 80))
    tiles = [(top, left) for top in (0, 20, 40) for left in (0, 20, 40)]
    for scores, (top, left) in zip(all_scores, tiles, strict=True):
        for y in range(40):
            for x in range(40):
                weight = min(y + 0.5, 39.5 - y) * min(x + 0.5, 39.5 - x)
                expected[:, top + y, left + x] += weight * scores[:, y, x]
    np.testing.assert_array_equal(found.label_map, expected.argmax(0))


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_one_tile_equals_the_plain_run(task, panoptic_config, photo):
    model = Mask2Former.from_pretrained(panoptic_config.parent)
    threshold = {"instance": 0.1, "panoptic": 0.3}.get(task)
    plain = model.predict(photo, task=task, threshold=threshold)
    tiled = model.predict(photo, task=task, threshold=threshold, tile=max(photo.size))
    assert len(plain) == len(tiled) > 0
    for name in ("masks", "boxes", "scores", "labels", "label_map"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(tiled, name))
    parts = model.predict(photo, task=task, threshold=threshold, tile=200)
    assert type(parts) is type(plain) and parts.size == plain.size
    assert (parts.label_map != plain.label_map).any()


def test_what_a_neighbour_shows_whole_is_left_to_it():
    """A tile takes the cut half of an object for another class; the whole object counts alone."""
    numbers = np.zeros((40, 70), int)
    numbers[10:30, 28:38] = 1  # tile 0 ends at column 40, tile 1 begins at 30
    mosaic = Mosaic(numbers, [0, 1])

    class Mistaken(Oracle):
        def find(self, image, source=None):
            if image[10, 0].any():
                image = image.copy()
                image[10:30, :8, 2] = 2
            return super().find(image, source)

    found = TiledSegmenter(Mistaken("instance"), Tiling(40, 0.25)).find(mosaic.image)
    assert found.names == ["disc"]
    np.testing.assert_array_equal(found.masks, numbers[None] == 1)
    segments = TiledSegmenter(Mistaken("panoptic"), Tiling(40, 0.25)).find(mosaic.image)
    np.testing.assert_array_equal(segments.label_map, numbers)


@pytest.mark.parametrize("seen_first", [1, 2])
def test_a_part_of_two_objects_does_not_join_them(seen_first):
    """The tile between takes what it sees of two whole objects for one."""
    numbers = np.zeros((40, 100), int)  # tiles begin at columns 0, 30 and 60
    numbers[10:30, 15:38] = seen_first
    numbers[10:30, 62:85] = 3 - seen_first
    mosaic = Mosaic(numbers, [0, 1, 1])

    class Mistaken(Oracle):
        def find(self, image, source=None):
            if {1, 2} <= set(image[10].ravel()[::3].tolist()):
                image = np.where(image == (2, 0, 1), np.array((1, 0, 1), np.uint8), image)
            return super().find(image, source)

    found = TiledSegmenter(Mistaken("instance"), Tiling(40, 0.25)).find(mosaic.image)
    masks = {mask.tobytes() for mask in found.masks}
    assert masks == {mask.tobytes() for mask in mosaic.masks().values()} and len(found) == 2
    segments = TiledSegmenter(Mistaken("panoptic"), Tiling(40, 0.25)).find(mosaic.image)
    pairs = np.unique(np.stack([segments.segment_map, numbers]).reshape(2, -1), axis=1)
    assert len(segments) == pairs.shape[1] == 3


def shifted(mask: np.ndarray, step: int, axis: int) -> np.ndarray:
    """What leaves the tile does not come in on the other side."""
    padded = np.pad(mask, 1)
    return np.roll(padded, step, axis)[1:-1, 1:-1]


@pytest.mark.parametrize("seed", range(5))
def test_objects_of_masks_that_are_a_little_wrong_are_counted_once(seed):
    """Each tile shows each mask shifted by a pixel."""
    rng = np.random.default_rng(seed)
    numbers = np.zeros((400, 500), int)
    rows, columns = np.mgrid[:50, :50] - 25
    sizes = rng.uniform(6, 23, (8, 10))
    for n, radius in enumerate(sizes.flat, start=1):
        top, left = 50 * ((n - 1) // 10), 50 * ((n - 1) % 10)
        numbers[top : top + 50, left : left + 50] = n * (np.hypot(rows, columns) < radius)
    labels = [0, *rng.integers(1, 4, 80).tolist()]

    class Careless(Oracle):
        def find(self, image, source=None):
            found = super().find(image, source)
            masks = found.masks
            for mask in masks:
                kind = rng.integers(4)
                mask[:] = shifted(mask, *((1, 0), (-1, 1), (1, 1), (-1, 0))[kind])
            planes = bit_planes.empty(len(masks), found.size)
            for i, mask in enumerate(masks):
                bit_planes.add(planes, i, mask)
            boxes = np.array([box_of(mask) for mask in masks], np.float32).reshape(-1, 4)
            return replace(found, planes=planes, boxes=boxes)

    image = Mosaic(numbers, labels).image
    found = TiledSegmenter(Careless("instance"), Tiling(130, 0.4)).find(image)
    assert len(found) == 80
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    order = (middles[:, 1] // 50 * 10 + middles[:, 0] // 50).astype(int)
    assert sorted(order) == list(range(80))
    np.testing.assert_array_equal(found.labels, np.array(labels)[1 + order])
    for i, n in enumerate(order + 1):
        mask, true = found.mask(i), numbers == n
        assert (mask & true).sum() / (mask | true).sum() > 0.7


def test_tiles_without_overlap_join_what_meets_at_their_edges():
    numbers = np.zeros((64, 128), int)
    numbers[5:25, 40:90], numbers[40:60, 60:70] = 1, 2
    found = find("instance", Mosaic(numbers, [0, 2, 2]), Tiling(64, 0))
    np.testing.assert_array_equal(found.masks, [numbers == 1, numbers == 2])


def test_neighbours_of_one_class_stay_apart():
    """Two objects touch on the border of two tiles."""
    numbers = np.zeros((64, 110), int)
    numbers[10:30, 30:80], numbers[30:50, 30:80] = 1, 2
    found = find("instance", Mosaic(numbers, [0, 1, 1]), Tiling(64, 0.2))
    np.testing.assert_array_equal(found.masks, [numbers == 1, numbers == 2])


def test_masks_that_do_not_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr("mask2former.inference.tiling.tiled.MOST_BYTES", 1000)
    with pytest.raises(MemoryError, match=r"do not fit .* --tile"):
        find("instance", *mosaic_of(0))
