"""What a model found in one image: the base of the types of `predictions`.

Shapes:
    N: objects (instances, panoptic segments, or classes that have pixels),
    H, W: height and width of the image.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from .classes import Classes
from .drawing.scenes import Scene
from .files import write_atomically, write_json
from .image import read_image
from .polygons import mask_to_polygons
from .rle import encode
from .text import some_of

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
            ValueError: the file cannot be read any more, or the image is not known.
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

    size: tuple[int, int]
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
        """The class at each pixel, (H, W) int32, -1 where there is none."""

    @abstractmethod
    def scene(self) -> Scene:
        """Return the objects in a form that can be drawn and summarised."""

    @abstractmethod
    def __getitem__(self, kept: Sequence[int] | np.ndarray) -> Prediction:
        """Return a prediction of some of the objects: positions, or a bool array (N,)."""

    @property
    def masks(self) -> np.ndarray:
        """The masks, (N, H, W) bool, made anew by each access."""
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
        """How many pixels each object has, (N,) int64."""
        return np.array([np.count_nonzero(self.mask(i)) for i in range(len(self))], np.int64)

    @property
    def segments(self) -> list[dict[str, Any]]:
        """Dicts with `id`, `label`, `name`, `score` (or None), `isthing`, `area` and `box`."""
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
        return [
            coco_result(
                image_id, self.classes.ids[label], score, box.tolist(), self.size, encode(mask)
            )
            for label, score, box, mask in zip(
                self.labels,
                self.scores.tolist(),
                self.boxes,
                (self.mask(i) for i in range(len(self))),
                strict=True,
            )
        ]

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
                'to_supervision needs supervision: pip install "mask2former-runtime[supervision]"'
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


def coco_result(
    image_id: int,
    category_id: int,
    score: float,
    box: Sequence[float],
    size: tuple[int, int],
    encoded: tuple[str, int],
) -> dict[str, Any]:
    """Return an object as a COCO result; see `Prediction.to_coco`.

    Args:
        image_id: of its image.
        category_id: of its class.
        score: from 0 to 1; NaN for none.
        box: left, top, right and bottom edge.
        size: (H, W) of the image.
        encoded: of `encode`.
    """
    left, top, right, bottom = box
    counts, area = encoded
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [left, top, right - left, bottom - top],
        "area": area,
        "iscrowd": 0,
        "segmentation": {"size": list(size), "counts": counts},
        **({} if np.isnan(score) else {"score": score}),
    }


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
