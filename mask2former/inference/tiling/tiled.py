"""A segmenter that looks at images tile by tile.

Shapes:
    H, W: height and width of the image, T: of a tile, K: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from mask2former_runtime import bit_planes
from mask2former_runtime.prediction import ImageSource, Prediction
from mask2former_runtime.predictions import (
    InstancePrediction,
    PanopticPrediction,
    SemanticPrediction,
)
from mask2former_runtime.stored import StoredKind, as_picture

from ...structures import Classes
from .grid import Grid, Region, Tiling
from .joining import JoinedObject, Joiner
from .panoptic_map import PanopticMap
from .parts import arrays_of_instances, arrays_of_segments, parts_of
from .semantic_blend import SemanticBlend
from .store import Arrays, MemoryStore, Store

MOST_BYTES = 1 << 32
"""Of the masks of the instances of one image, at one bit per pixel and instance."""


class Finder(Protocol):
    """What finds objects in the image of a tile: a `Segmenter`."""

    classes: Classes
    task: str

    @property
    def stored(self) -> StoredKind | None:
        """How the images that it takes are stored; None for pictures of 8 bits."""

    def find(self, image: np.ndarray, source: ImageSource | None = None) -> Prediction:
        """Return what is in an image (T, T, 3), uint8, BGR, or (T, T, C) as it is stored."""

    def class_scores(self, image: np.ndarray) -> np.ndarray:
        """Return the score of each class at each pixel: (K, T, T) float32."""


class TileResults:
    """What the tiles of an image show, and what follows for the image.

    Args:
        finder: looks at each tile.
        grid: the tiles.
        store: keeps what was found. What it has already is not looked for again.
    """

    def __init__(self, finder: Finder, grid: Grid, store: Store):
        self.finder = finder
        self.grid = grid
        self.store = store
        self._blend = None
        if finder.task == "semantic":
            self._blend = SemanticBlend(grid, len(finder.classes), store)

    def has(self, tile: int) -> bool:
        """Return whether a tile was looked at."""
        if self._blend is not None:
            return self._blend.has(tile)
        return self.store.load(_name(tile)) is not None

    def add(self, tile: int, image: np.ndarray) -> None:
        """Look at a tile, as `Windows.read` returns it. Tiles come in their order."""
        if self._blend is not None:
            self._blend.add(tile, self.finder.class_scores(image))
            return
        found = self.finder.find(image)
        if isinstance(found, PanopticPrediction):
            arrays = arrays_of_segments(found)
        else:
            assert isinstance(found, InstancePrediction)
            arrays = arrays_of_instances(found)
        self.store.save(_name(tile), arrays)

    def objects(self) -> Iterator[JoinedObject]:
        """Yield the instances of the image, of which memory holds those of some rows of tiles."""
        joiner = Joiner(self.grid)
        for tile in range(len(self.grid)):
            joiner.add(tile, parts_of(self._tile(tile), self.grid, tile))
            yield from joiner.finished(tile)

    def panoptic_map(self) -> PanopticMap:
        """Return the segments of the image."""
        return PanopticMap(self.grid, self._tile)

    def labels(self, first: int, last: int) -> np.ndarray:
        """Return the classes of the pixels in some rows of the image."""
        assert self._blend is not None
        return self._blend.rows(first, last)

    def _tile(self, tile: int) -> Arrays:
        arrays = self.store.load(_name(tile))
        assert arrays is not None
        return arrays


class TiledSegmenter:
    """Finds in images what a segmenter finds in their tiles; use it like the segmenter.

    An image that is one tile gives exactly what the segmenter finds in it.

    Args:
        segmenter: looks at each tile.
        tiling: how to divide images.
        settings: gives what else the results follow from, such as the model, as JSON; asked for
            when results go to files.
    """

    def __init__(
        self,
        segmenter: Finder,
        tiling: Tiling,
        settings: Callable[[], Mapping[str, object]] = dict,
    ):
        self.segmenter = segmenter
        self.tiling = tiling
        self.settings = settings
        self.classes = segmenter.classes
        self.task = segmenter.task
        self.stored = segmenter.stored

    def find(self, image: np.ndarray, source: ImageSource | None = None) -> Prediction:
        """Return what is in an image.

        Args:
            image: (H, W, 3) uint8, BGR, or (H, W, C) as it is stored.
            source: where the prediction finds the image again; by default it keeps the pixels.

        Raises:
            MemoryError: the masks of all instances would take more than `MOST_BYTES`.
        """
        size = image.shape[0], image.shape[1]
        grid = Grid(size, self.tiling)
        if len(grid) == 1:
            return self.segmenter.find(image, source)
        source = ImageSource(pixels=as_picture(image)) if source is None else source
        results = TileResults(self.segmenter, grid, MemoryStore())
        corner = Region(0, 0, *size)
        for tile in range(len(grid)):
            results.add(tile, image[grid.tile(tile).slices(corner)])
        if self.task == "semantic":
            return SemanticPrediction.from_labels(results.labels(0, size[0]), self.classes, source)
        if self.task == "panoptic":
            found = results.panoptic_map()
            ids = found.rows(0, size[0])
            shown = np.bincount(ids.reshape(-1), minlength=len(found.segments) + 1)
            segments = [segment for segment in found.segments if shown[segment["id"]]]
            return PanopticPrediction.from_segments(ids, segments, self.classes, source)
        return instance_prediction(list(results.objects()), size, self.classes, source)

    def find_all(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Return what is in several images; see `find`."""
        return [self.find(image) for image in images]


def instance_prediction(
    objects: Sequence[JoinedObject], size: tuple[int, int], classes: Classes, source: ImageSource
) -> InstancePrediction:
    """Return objects of an image (H, W) as a prediction, in descending order of score.

    Raises:
        MemoryError: their masks would take more than `MOST_BYTES`.
    """
    if -(-len(objects) // 8) * size[0] * size[1] > MOST_BYTES:
        raise MemoryError(
            f"the masks of {len(objects)} instances in {size[1]} x {size[0]} pixels do not fit "
            f"into {MOST_BYTES >> 30} GiB: let mask2former predict write them to files, with --tile"
        )
    ranked = sorted(objects, key=lambda found: -found.score)
    planes = bit_planes.empty(len(ranked), size)
    boxes = np.zeros((len(ranked), 4), np.float32)
    for n, found in enumerate(ranked):
        top, left, bottom, right = found.region
        boxes[n] = left, top, right, bottom
        bit_planes.add(planes, n, found.mask(), (top, left))
    return InstancePrediction(
        size=size,
        classes=classes,
        labels=np.array([found.label for found in ranked], np.int64),
        scores=np.array([found.score for found in ranked], np.float32),
        boxes=boxes,
        planes=planes,
        source=source,
    )


def _name(tile: int) -> str:
    return f"tile-{tile:06}"
