"""What a model found in one image: one type per task.

Shapes:
    N: objects (instances, panoptic segments, or classes that have pixels),
    H, W: height and width of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .bit_planes import add, empty, unpack
from .classes import Classes
from .drawing.scenes import InstanceScene, PanopticScene, SemanticScene
from .maps import boxes_of
from .prediction import ImageSource, Prediction
from .text import some_of


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InstancePrediction(Prediction):
    """Instances, which may overlap.

    Attributes:
        planes: the N masks, at one bit per pixel; see `bit_planes`.
    """

    task: ClassVar[str] = "instance"

    planes: np.ndarray

    def mask(self, i: int) -> np.ndarray:
        """Return the mask of one object: (H, W) bool."""
        return unpack(self.planes, i)

    @property
    def label_map(self) -> np.ndarray:
        """The class of the instance with the highest score at each pixel, (H, W) int32, or -1."""
        labels = np.full(self.size, -1, np.int32)
        for i in np.argsort(self.scores, kind="stable"):
            labels[self.mask(i)] = self.labels[i]
        return labels

    @property
    def things(self) -> list[bool]:
        """All instances are things."""
        return [True] * len(self)

    def scene(self) -> InstanceScene:
        """Return the instances with their scores."""
        return InstanceScene(_Masks(self), self.labels.tolist(), self.scores.tolist())

    def __getitem__(self, kept: Sequence[int] | np.ndarray) -> InstancePrediction:
        """Return a prediction of some of the objects: positions, or a bool array (N,)."""
        chosen = self._chosen(kept)
        planes = empty(len(chosen), self.size)
        for n, i in enumerate(chosen.tolist()):
            add(planes, n, self.mask(i))
        return replace(
            self,
            labels=self.labels[chosen],
            scores=self.scores[chosen],
            boxes=self.boxes[chosen],
            planes=planes,
        )


class _Masks(Sequence[np.ndarray]):
    """The masks of a prediction, each made when it is asked for."""

    def __init__(self, prediction: Prediction):
        self.prediction = prediction

    def __len__(self) -> int:
        return len(self.prediction)

    def __getitem__(self, i: Any) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)  # ends an iteration
        return self.prediction.mask(i % len(self))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _MapPrediction(Prediction):
    """Objects that do not overlap.

    Attributes:
        values: (H, W), of an unsigned type that is as small as possible: the value of the object at
            each pixel.
    """

    values: np.ndarray

    def mask(self, i: int) -> np.ndarray:
        """Return the mask of one object: (H, W) bool."""
        return self.values == self._keys[i]

    @property
    def _keys(self) -> list[int]:
        """The value of each object in the map."""
        raise NotImplementedError

    @property
    def areas(self) -> np.ndarray:
        """How many pixels each object has, (N,) int64."""
        keys = self._keys
        counts = np.bincount(self.values.reshape(-1), minlength=max(keys, default=0) + 1)
        return counts[keys] if keys else np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PanopticPrediction(_MapPrediction):
    """Segments, which do not overlap: one per thing, and one for each class of stuff.

    Attributes:
        values: (H, W): the number in `ids` of the segment at each pixel, 0 where there is none.
        isthing: N flags.
    """

    task: ClassVar[str] = "panoptic"

    numbers: Sequence[int]
    isthing: Sequence[bool]

    @classmethod
    def from_segments(
        cls,
        id_map: np.ndarray,
        segments: Sequence[Mapping[str, Any]],
        classes: Classes,
        source: ImageSource,
    ) -> PanopticPrediction:
        """Take over a map of segments, such as Detectron2's ``panoptic_seg``.

        Args:
            id_map: (H, W), ids of segments, 0 where there is none.
            segments: ``id``, ``category_id`` (in [0, K)), ``isthing`` and optionally ``score`` of
                each segment.
            classes: K classes.
            source: the image.
        """
        numbers = [segment["id"] for segment in segments]
        values = _smallest(id_map, max(numbers, default=0))
        return cls(
            size=(id_map.shape[0], id_map.shape[1]),
            classes=classes,
            labels=np.array([segment["category_id"] for segment in segments], np.int64),
            scores=np.array([segment.get("score", np.nan) for segment in segments], np.float32),
            boxes=boxes_of(values, numbers).astype(np.float32),
            values=values,
            numbers=numbers,
            isthing=[bool(segment["isthing"]) for segment in segments],
            source=source,
        )

    @property
    def _keys(self) -> list[int]:
        return list(self.numbers)

    @property
    def ids(self) -> list[int]:
        """The number of each segment in `segment_map`, from 1."""
        return list(self.numbers)

    @property
    def things(self) -> list[bool]:
        """Whether each segment is a thing."""
        return list(self.isthing)

    @property
    def segment_map(self) -> np.ndarray:
        """The number in `ids` of the segment at each pixel, (H, W) int32, or 0."""
        return self.values.astype(np.int32)

    @property
    def label_map(self) -> np.ndarray:
        """The class at each pixel, (H, W) int32, -1 where there is no segment."""
        table = np.full(max(self.numbers, default=0) + 1, -1, np.int32)
        table[list(self.numbers)] = self.labels
        return table[self.values]

    def scene(self) -> PanopticScene:
        """Return the segments."""
        segments: list[dict[str, Any]] = [
            {"id": id_, "category_id": int(label), "isthing": thing}
            | ({} if np.isnan(score) else {"score": score})
            for id_, label, thing, score in zip(
                self.numbers, self.labels, self.isthing, self.scores.tolist(), strict=True
            )
        ]
        return PanopticScene(self.segment_map, segments)

    def __getitem__(self, kept: Sequence[int] | np.ndarray) -> PanopticPrediction:
        """Return a prediction of some of the segments: positions, or a bool array (N,)."""
        chosen = self._chosen(kept)
        numbers = [self.numbers[i] for i in chosen]
        return replace(
            self,
            labels=self.labels[chosen],
            scores=self.scores[chosen],
            boxes=self.boxes[chosen],
            values=np.where(np.isin(self.values, numbers), self.values, 0).astype(
                self.values.dtype
            ),
            numbers=numbers,
            isthing=[self.isthing[i] for i in chosen],
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SemanticPrediction(_MapPrediction):
    """The class of each pixel. The objects are the classes that have pixels, in their order.

    Attributes:
        values: (H, W): the class at each pixel, the number of classes where there is none.
    """

    task: ClassVar[str] = "semantic"

    @classmethod
    def from_labels(
        cls, labels: np.ndarray, classes: Classes, source: ImageSource
    ) -> SemanticPrediction:
        """Take over a map (H, W) of classes in [0, K)."""
        values = _smallest(labels, len(classes))
        present = np.flatnonzero(np.bincount(values.reshape(-1))[: len(classes)])
        return cls(
            size=(labels.shape[0], labels.shape[1]),
            classes=classes,
            labels=present,
            scores=np.full(len(present), np.nan, np.float32),
            boxes=boxes_of(values, present.tolist()).astype(np.float32),
            values=values,
            source=source,
        )

    @property
    def _keys(self) -> list[int]:
        return self.labels.tolist()

    @property
    def label_map(self) -> np.ndarray:
        """The class at each pixel, (H, W) int32, -1 where there is none."""
        return self.filled(-1)

    def filled(self, void: int) -> np.ndarray:
        """Return the class at each pixel, and `void` where there is none: (H, W) int32."""
        labels = self.values.astype(np.int32)
        labels[self.values == len(self.classes)] = void
        return labels

    def scene(self) -> SemanticScene:
        """Return the classes of the pixels."""
        return SemanticScene(self.filled(self.classes.void_label))

    def summary(self) -> str:
        """Return the classes with their shares of the pixels, in words."""
        order = np.argsort(-self.areas, kind="stable")
        shares = self.areas / self.values.size
        return some_of([f"{shares[i]:.0%} {self.names[i]}" for i in order]) or "nothing"

    def __getitem__(self, kept: Sequence[int] | np.ndarray) -> SemanticPrediction:
        """Return a prediction of some of the classes: positions, or a bool array (N,)."""
        labels = self.labels[self._chosen(kept)]
        values = np.where(np.isin(self.values, labels), self.values, len(self.classes))
        return type(self).from_labels(values, self.classes, self.source)


def _smallest(values: np.ndarray, most: int) -> np.ndarray:
    """Return a map of numbers from 0 to `most` in the smallest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(most))
