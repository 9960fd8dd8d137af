"""What a model found in one image: one type per task, with one base.

Shapes:
    N: objects (instances, panoptic segments, or classes that have pixels),
    H, W: height and width of the image.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import hotcoco
import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image
from scipy import ndimage

from ..data.image import read_image
from ..structures import Classes
from ..structures.packed_masks import PackedMasks
from ..structures.polygons import mask_to_polygons
from ..utils.files import write_atomically, write_json
from ..utils.size import Size
from ..utils.text import some_of
from ..visualization.scenes import InstanceScene, PanopticScene, Scene, SemanticScene

# The longer side of the picture that a notebook shows, in pixels.
_NOTEBOOK_SIDE = 1200


@dataclass(frozen=True, eq=False)
class ImageSource:
    """The image of a prediction: its pixels or, to keep predictions small, only its file.

    Attributes:
        name: for messages; "" if the image has none.
        pixels: (H, W, 3) uint8, RGB; None to read them from `file` when they are needed.
        file: the file of the image, if `pixels` is None.
    """

    name: str = ""
    pixels: np.ndarray | None = None
    file: Path | None = None

    def read(self) -> np.ndarray:
        """Return the pixels (H, W, 3), uint8, RGB.

        Raises:
            ImageReadError: the file cannot be read any more.
        """
        if self.pixels is not None:
            return np.ascontiguousarray(self.pixels)
        if self.file is None:
            raise ValueError("this prediction does not have its image: give it as image=")
        return read_image(self.file, "RGB")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Prediction(ABC):
    """N objects in an image, the most certain first, where the model ranks them.

    Predictions can be pickled. Masks are computed when they are asked for.

    Attributes:
        size: (H, W).
        classes: all classes of the model.
        labels: (N,) int64, classes of the objects: positions in `classes`, from 0.
        scores: (N,) float32, from 0 to 1; NaN where the model gives none.
        boxes: (N, 4) float32: left, top, right and bottom edge in pixels; right and bottom are
            exclusive.
        source: where the image is.
    """

    task: ClassVar[str]

    size: Size
    classes: Classes
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    source: ImageSource = ImageSource()

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def mask(self, i: int) -> np.ndarray:
        """Return the mask of one object: (H, W) bool."""

    @property
    @abstractmethod
    def label_map(self) -> np.ndarray:
        """(H, W) int32: the class at each pixel, -1 where there is none."""

    @abstractmethod
    def scene(self) -> Scene:
        """Return the objects in a form that can be drawn and summarised."""

    @abstractmethod
    def __getitem__(self, kept: Sequence[int] | np.ndarray) -> Prediction:
        """Return a prediction of some of the objects: positions, or a bool array (N,)."""

    @property
    def masks(self) -> np.ndarray:
        """(N, H, W) bool, made anew by each access: keep it, rather than ask for it in a loop."""
        masks = np.empty((len(self), *self.size), dtype=bool)
        for i in range(len(self)):
            masks[i] = self.mask(i)
        return masks

    @property
    def names(self) -> list[str]:
        """The N names of the objects' classes."""
        return [self.classes.names[label] for label in self.labels]

    @property
    def things(self) -> list[bool]:
        """Whether each object is a thing, which is one of several of its class."""
        return [self.classes.is_thing(label) for label in self.labels]

    @property
    def ids(self) -> list[int]:
        """A number of each object, from 1, that is its own within the image."""
        return list(range(1, len(self) + 1))

    @property
    def areas(self) -> np.ndarray:
        """(N,) int64: pixels of each object."""
        return np.array([np.count_nonzero(self.mask(i)) for i in range(len(self))], np.int64)

    @property
    def segments(self) -> list[dict[str, Any]]:
        """A dict per object: `id`, `label`, `name`, `score` (or None), `isthing`, `area`, `box`."""
        return [
            {
                "id": id_,
                "label": int(label),
                "name": name,
                "score": None if np.isnan(score) else float(score),
                "isthing": thing,
                "area": int(area),
                "box": [float(edge) for edge in box],
            }
            for id_, label, name, score, thing, area, box in zip(
                self.ids,
                self.labels,
                self.names,
                self.scores,
                self.things,
                self.areas,
                self.boxes,
                strict=True,
            )
        ]

    @property
    def image(self) -> np.ndarray:
        """The image (H, W, 3), uint8, RGB; read from its file again if it came from one."""
        return self.source.read()

    def plot(self, image: np.ndarray | None = None, **options: Any) -> Image.Image:
        """Draw the objects on the image.

        Args:
            image: what to draw on, (H, W, 3) uint8, RGB; by default the image itself.
            options: those of the scene's `draw`.
        """
        return self.scene().draw(self.image if image is None else image, self.classes, **options)

    def save(self, path: str | Path, **options: Any) -> None:
        """Write a picture or, if the suffix is ``.json``, a COCO file of the objects.

        Args:
            path: the file; folders that do not exist are made.
            options: of `plot`.

        Raises:
            ValueError: no picture can be written in the format of this suffix.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            image = coco_image(self, 1, self.source.name)
            write_json(path, coco_file([image], self.to_coco(1), self.classes))
        else:
            save_picture(self.plot(**options), path)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """Return the objects as COCO results, which are also annotations without an ``id``.

        Args:
            image_id: the ``image_id`` of all of them.

        Returns:
            N dicts with ``image_id``, ``category_id`` (of the data set, not the label), ``bbox``
            (x, y, width, height), ``area``, ``segmentation`` (compressed RLE), ``iscrowd`` (0) and,
            where there is one, ``score``.
        """
        records = []
        for i, (label, score, box) in enumerate(
            zip(self.labels, self.scores.tolist(), self.boxes, strict=True)
        ):
            rle = hotcoco.mask.encode(np.ascontiguousarray(self.mask(i)))
            left, top, right, bottom = box
            records.append(
                {
                    "image_id": image_id,
                    "category_id": self.classes.ids[label],
                    "bbox": np.array([left, top, right - left, bottom - top]).tolist(),
                    "area": int(hotcoco.mask.area(rle)),
                    "iscrowd": 0,
                    "segmentation": {
                        "size": list(rle["size"]),
                        "counts": rle["counts"].decode("ascii"),
                    },
                    **({} if np.isnan(score) else {"score": score}),
                }
            )
        return records

    def polygons(self, tolerance: float = 0.0) -> list[list[np.ndarray]]:
        """Return the outlines of the objects.

        Args:
            tolerance: leave out points that are at most this many pixels off the outline.

        Returns:
            For each object a list of polygons (P, 2), float32, of x and y in pixels: its parts,
            clockwise on the screen, and the holes in them, counter-clockwise. See
            `mask_to_polygons`.
        """
        return [mask_to_polygons(self.mask(i), tolerance) for i in range(len(self))]

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``, with the names of classes as ``class_name``.

        Raises:
            ValueError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ValueError(
                'to_supervision needs supervision: pip install "mask2former[supervision]"'
            ) from error
        unscored = self.task == "semantic" or np.isnan(self.scores).any()
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=None if unscored else self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def summary(self) -> str:
        """Return what was found, in words."""
        counts = Counter(self.names)
        return some_of([f"{count} {name}" for name, count in counts.items()]) or "nothing"

    def __repr__(self) -> str:
        height, width = self.size
        name = f"{Path(self.source.name).name}, " if self.source.name else ""
        return (
            f"{type(self).__name__}({name}{height}\N{MULTIPLICATION SIGN}{width}: {self.summary()})"
        )

    def _repr_png_(self) -> bytes:
        picture = self.plot()
        picture.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()

    def _chosen(self, kept: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the positions that `kept` stands for."""
        chosen = np.asarray(kept)
        return np.arange(len(self))[chosen if chosen.size else chosen.astype(int)].reshape(-1)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InstancePrediction(Prediction):
    """Instances, which may overlap.

    Attributes:
        packed: the N masks, at one bit per pixel.
    """

    task: ClassVar[str] = "instance"

    packed: PackedMasks

    @classmethod
    def from_instances(
        cls, instances: Instances, classes: Classes, source: ImageSource
    ) -> InstancePrediction:
        """Take over Detectron2's `Instances` on the CPU; see `confident`."""
        packed = PackedMasks.from_tensor(instances.pred_masks)
        if instances.has("pred_boxes"):
            boxes = instances.pred_boxes.tensor
        else:
            boxes = packed.get_bounding_boxes().tensor
        return cls(
            size=instances.image_size,
            classes=classes,
            labels=instances.pred_classes.numpy(),
            scores=instances.scores.float().numpy(),
            boxes=boxes.float().numpy(),
            packed=packed,
            source=source,
        )

    def mask(self, i: int) -> np.ndarray:
        """Return the mask of one object: (H, W) bool."""
        bit = np.uint8(1 << i % 8)
        return (self.packed.planes[i // 8].numpy() & bit) != 0

    @property
    def label_map(self) -> np.ndarray:
        """(H, W) int32: the class of the instance with the highest score at each pixel, or -1."""
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
        return replace(
            self,
            labels=self.labels[chosen],
            scores=self.scores[chosen],
            boxes=self.boxes[chosen],
            packed=self.packed[torch.from_numpy(chosen)],
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
        """(N,) int64: pixels of each object."""
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
    def from_output(
        cls,
        output: tuple[torch.Tensor, list[dict[str, Any]]],
        classes: Classes,
        source: ImageSource,
    ) -> PanopticPrediction:
        """Take over Detectron2's ``panoptic_seg``."""
        id_map, segments = output
        numbers = [segment["id"] for segment in segments]
        values = _smallest(id_map.cpu().numpy(), max(numbers, default=0))
        return cls(
            size=(id_map.shape[0], id_map.shape[1]),
            classes=classes,
            labels=np.array([segment["category_id"] for segment in segments], np.int64),
            scores=np.array([segment.get("score", np.nan) for segment in segments], np.float32),
            boxes=_boxes(values, numbers),
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
        """(H, W) int32: the number in `ids` of the segment at each pixel, 0 where there is none."""
        return self.values.astype(np.int32)

    @property
    def label_map(self) -> np.ndarray:
        """(H, W) int32: the class at each pixel, -1 where there is no segment."""
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
            boxes=_boxes(values, present.tolist()),
            values=values,
            source=source,
        )

    @property
    def _keys(self) -> list[int]:
        return self.labels.tolist()

    @property
    def label_map(self) -> np.ndarray:
        """(H, W) int32: the class at each pixel, -1 where there is none."""
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


def _boxes(values: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """Return the boxes (N, 4) of objects that are a value each in a map (H, W)."""
    found = ndimage.find_objects(values.astype(np.int32) + 1)  # it takes 0 for the background
    boxes = np.zeros((len(keys), 4), np.float32)
    for box, key in zip(boxes, keys, strict=True):
        if key < len(found) and found[key] is not None:
            rows, columns = found[key]
            box[:] = columns.start, rows.start, columns.stop, rows.stop
    return boxes


def _smallest(values: np.ndarray, most: int) -> np.ndarray:
    """Return a map of numbers from 0 to `most` in the smallest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(most))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, atomically, in the format of the path's suffix.

    Raises:
        ValueError: no picture can be written in this format.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"{path}: cannot write this format; choose .png or .jpg")
    # Chroma subsampling would blur the edges of saturated masks.
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: picture.save(file, kind, **options))


def coco_image(prediction: Prediction, image_id: int, file_name: str) -> dict[str, Any]:
    """Return the entry of an image in the ``images`` of a COCO file."""
    height, width = prediction.size
    return {"id": image_id, "file_name": file_name, "height": height, "width": width}


def coco_file(
    images: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], classes: Classes
) -> dict[str, Any]:
    """Return the content of a COCO file that pycocotools' ``COCO(file)`` opens.

    Args:
        images: of `coco_image`.
        results: of `Prediction.to_coco`.
        classes: all classes.
    """
    return {
        "images": list(images),
        "categories": classes.to_categories(),
        "annotations": [{"id": i, **result} for i, result in enumerate(results, start=1)],
    }
