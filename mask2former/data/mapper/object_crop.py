"""Windows around objects, for training on images that are far larger than the training crop.

A random crop of such an image mostly shows no object, and a resized image shows small objects as a
few pixels. A window around an object shows them as they are.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from mask2former_runtime.maps import box_of

from ...utils.size import Size
from ..segmentation import area_and_box
from .augmentations import has_fixed_crop, has_scale_jitter
from .classes import distinct_values
from .labelled_input import LabelledInput

Box = tuple[int, int, int, int]


class ObjectCrop:
    """Draws a window around an object of an image, before its augmentation.

    A class of the image is drawn, then one of its objects, or of label maps one of its pixels. The
    window is a square with a side between `least` and that of the image, drawn so that each factor
    of scale is as likely as any other, as far as it lies within the image. It holds the object, if
    it is not larger than the window.

    All draws come from NumPy's global generator.

    Args:
        probability: of an image to be cropped.
        least: the shortest side of a window, in pixels.
    """

    def __init__(self, probability: float, least: int):
        self.probability = probability
        self.least = least

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ObjectCrop | None:
        """Return the windows of a config, or None; the shortest side is that of its crop."""
        if not cfg.INPUT.OBJECT_CROP:
            return None
        return cls(cfg.INPUT.OBJECT_CROP, crop_side(cfg))

    def transform(
        self, labelled: LabelledInput, dataset_dict: dict[str, Any], ignore_label: int
    ) -> T.Transform | None:
        """Draw a window; return None for the whole image.

        Args:
            labelled: the image with its maps.
            dataset_dict: of the image, with ``annotations`` or ``segments_info`` if there are any.
            ignore_label: value of pixels without a class in a label map.

        Raises:
            ValueError: the segmentation of the drawn annotation is unusable.
        """
        generator = np.random.default_rng(np.random.randint(1 << 31))  # noqa: NPY002
        height, width = labelled.image.shape[:2]
        if generator.random() >= self.probability or max(height, width) <= self.least:
            return None
        box = _draw_box(labelled, dataset_dict, ignore_label, generator)
        if box is None:
            return None
        longest = max(height, width)
        side = round(self.least * (longest / self.least) ** generator.random())
        x, w = _draw_span(box[0], box[2], side, width, generator)
        y, h = _draw_span(box[1], box[3], side, height, generator)
        return T.CropTransform(x, y, w, h, width, height)


def crop_side(cfg: CfgNode) -> int:
    """Return the side of a config's training crop in pixels."""
    if has_scale_jitter(cfg):
        return cfg.INPUT.IMAGE_SIZE
    if has_fixed_crop(cfg):
        return round(min(cfg.INPUT.CROP.SIZE))
    return min(cfg.INPUT.MIN_SIZE_TRAIN)


def _draw_span(
    first: int, last: int, side: int, length: int, generator: np.random.Generator
) -> tuple[int, int]:
    """Draw where a window lies along an axis: its beginning and its length.

    Args:
        first: where the object begins.
        last: where it ends.
        side: of the window.
        length: of the image.
        generator: draws.
    """
    side = min(side, length)
    low, high = sorted((last - side, first))
    low, high = (min(max(value, 0), length - side) for value in (low, high))
    return int(generator.integers(low, high + 1)), side


def _draw_box(
    labelled: LabelledInput,
    dataset_dict: dict[str, Any],
    ignore_label: int,
    generator: np.random.Generator,
) -> Box | None:
    """Draw an object and return its box: left, top, right, bottom; None if there is none.

    Crowds are as good as objects: they show what the model should leave alone.
    """
    size = labelled.image.shape[0], labelled.image.shape[1]
    if labelled.segments is not None:
        segments = list(enumerate(dataset_dict["segments_info"], start=1))
        things = [(n, s) for n, s in segments if s.get("isthing", True)]
        number = _draw_of_class([(s["category_id"], n) for n, s in things or segments], generator)
        box = (0, 0, 0, 0) if number is None else box_of(labelled.segments == number)
        return box if box[2] > box[0] else None
    if labelled.labels is not None:
        return _draw_pixel(labelled.labels, ignore_label, generator)
    annotations = dataset_dict.get("annotations", ())
    number = _draw_of_class([(a["category_id"], n) for n, a in enumerate(annotations)], generator)
    return None if number is None else _annotation_box(annotations[number], size)


def _draw_of_class(objects: list[tuple[int, int]], generator: np.random.Generator) -> int | None:
    """Draw a class and then one of its objects, from pairs of class and number."""
    if not objects:
        return None
    category = generator.choice(sorted({c for c, _ in objects}))
    return int(generator.choice([number for c, number in objects if c == category]))


def _annotation_box(annotation: dict[str, Any], size: Size) -> Box | None:
    segmentation = annotation.get("segmentation")
    if annotation.get("bbox") is not None:
        mode = annotation["bbox_mode"]
        box = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
    elif isinstance(segmentation, np.ndarray):
        box = box_of(segmentation != 0)
    elif segmentation is None:
        return None
    else:
        _, (x, y, w, h) = area_and_box(segmentation, size)
        box = (x, y, x + w, y + h)
    left, top, right, bottom = (
        int(min(max(edge, 0), limit)) for edge, limit in zip(box, (*size[::-1],) * 2, strict=True)
    )
    return left, top, right, bottom


def _draw_pixel(
    labels: np.ndarray, ignore_label: int, generator: np.random.Generator
) -> Box | None:
    """Draw one of the classes of a label map, and one of its pixels."""
    present = [int(value) for value in distinct_values(labels) if value != ignore_label]
    if not present:
        return None
    places = np.flatnonzero(labels == generator.choice(present))
    y, x = divmod(int(generator.choice(places)), labels.shape[1])
    return x, y, x + 1, y + 1
