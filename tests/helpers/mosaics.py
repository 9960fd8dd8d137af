"""Large images of known objects, and a segmenter that finds them in any part of the image.

The colour of a pixel is the number of its object, so the segmenter is exact without knowing where
in the image a tile lies, and what it finds follows from the tile's pixels alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask2former.structures import Classes
from mask2former_runtime import bit_planes
from mask2former_runtime.maps import boxes_of, connected_pieces
from mask2former_runtime.prediction import ImageSource
from mask2former_runtime.predictions import (
    InstancePrediction,
    PanopticPrediction,
    SemanticPrediction,
)
from mask2former_runtime.stored import StoredKind

CLASSES = Classes(["ground", "disc", "bar", "ring"], [10, 11, 12, 13], frozenset((1, 2, 3)))


@dataclass
class Mosaic:
    """Objects by number, from 1; 0 is the ground."""

    numbers: np.ndarray
    labels: list[int]

    @property
    def image(self) -> np.ndarray:
        """The image (H, W, 3), BGR."""
        parts = [(self.numbers >> shift) & 255 for shift in (0, 8)]
        kinds = np.array(self.labels)[self.numbers]
        return np.stack([*parts, kinds], axis=-1).astype(np.uint8)

    def masks(self) -> dict[int, np.ndarray]:
        return {n: self.numbers == n for n in np.unique(self.numbers).tolist() if n}


def random_mosaic(rng: np.random.Generator, size: tuple[int, int], count: int) -> Mosaic:
    """Draw connected objects of all sizes and shapes; what later ones cut apart is removed."""
    numbers = np.zeros(size, np.int64)
    labels = [0]
    rows, columns = np.mgrid[: size[0], : size[1]]
    for _ in range(count):
        y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        radius = np.exp(rng.uniform(np.log(3), np.log(max(size) / 3)))
        kind = int(rng.integers(1, 4))
        distance = np.hypot(rows - y, columns - x)
        if kind == 1:
            mask = distance < radius
        elif kind == 2:
            angle = rng.uniform(0, np.pi)
            along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
            across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
            mask = (np.abs(along) < radius) & (np.abs(across) < max(2, radius / 6))
        else:
            mask = (distance < radius) & (distance > 0.6 * radius)
        if (numbers[mask] > 0).any() or connected_pieces(mask)[1] != 1:
            continue
        numbers[mask] = len(labels)
        labels.append(kind)
    return Mosaic(numbers, labels)


class Oracle:
    """Finds each object exactly, in the image of a mosaic or of a tile of it."""

    def __init__(self, task: str):
        self.task = task
        self.classes = CLASSES
        self.stored: StoredKind | None = None
        self.calls = 0

    def find(self, image: np.ndarray, source: ImageSource | None = None):
        self.calls += 1
        source = ImageSource(pixels=image[:, :, ::-1]) if source is None else source
        if self.task == "semantic":
            labels = self.class_scores(image).argmax(0)
            return SemanticPrediction.from_labels(labels, self.classes, source)
        numbers = image[..., 0].astype(int) | image[..., 1].astype(int) << 8
        size = numbers.shape
        present = [n for n in np.flatnonzero(np.bincount(numbers.reshape(-1))).tolist() if n]
        boxes = boxes_of(numbers, present)
        places = [(slice(top, bottom), slice(left, right)) for left, top, right, bottom in boxes]
        masks = [numbers[place] == n for place, n in zip(places, present, strict=True)]
        kinds = [image[place][mask][0, 2] for place, mask in zip(places, masks, strict=True)]
        labels = np.array(kinds, np.int64)
        if self.task == "panoptic":
            table = np.zeros(1 << 16, np.int64)
            table[[0, *present]] = np.arange(len(present) + 1) + 1
            segments = [{"id": 1, "category_id": 0, "isthing": False, "score": 0.75}]
            segments += [
                {"id": i, "category_id": label, "isthing": True, "score": 0.5}
                for i, label in enumerate(labels.tolist(), start=2)
            ]
            ids = table[numbers]
            return PanopticPrediction.from_segments(ids, segments, self.classes, source)
        planes = bit_planes.empty(len(present), size)
        for i, (mask, (left, top, _, _)) in enumerate(zip(masks, boxes.tolist(), strict=True)):
            bit_planes.add(planes, i, mask, (top, left))
        return InstancePrediction(
            size=size,
            classes=self.classes,
            labels=labels,
            scores=np.array([1 / (1 + n) for n in present], np.float32),
            boxes=boxes.astype(np.float32),
            planes=planes,
            source=source,
        )

    def class_scores(self, image: np.ndarray) -> np.ndarray:
        """Scores that follow from a pixel's colour, the class of the pixel among them."""
        self.calls += 1
        scores = np.stack([image[..., 0] % (5 + k) for k in range(4)]).astype(np.float32) / 64
        np.put_along_axis(scores, image[None, ..., 2].astype(int), 1.0, 0)
        return scores
