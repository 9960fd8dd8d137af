"""Training augmentations of the published recipes, and the steps that Detectron2 does not have.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from mask2former_runtime.stored import STORED_TYPES

from .appearance import SSDColorJitter
from .geometry import ResizeTransform
from .labelled_input import IMAGE_PADDING, PADDING_BYTE
from .pipeline import Albumentations
from .presets import AUGMENTATION_PRESETS, AugmentationPreset


def has_scale_jitter(cfg: CfgNode) -> bool:
    """Return whether a config's mapper resizes and crops to ``INPUT.IMAGE_SIZE``."""
    return cfg.INPUT.DATASET_MAPPER_NAME.endswith("_lsj")


def has_fixed_crop(cfg: CfgNode) -> bool:
    """Return whether the crop of a mapper without jitter has a size in pixels."""
    return cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "absolute"


def large_scale_jitter(cfg: CfgNode, ignore_label: int | None = None) -> list[T.Augmentation]:
    """Build flip, random scale and fixed crop: the LSJ of the paper's COCO recipe.

    The image is fitted into a square whose side is a random factor from ``MIN_SCALE`` to
    ``MAX_SCALE`` times ``IMAGE_SIZE`` pixels. Then a random square of ``IMAGE_SIZE`` pixels is
    cropped from it; a smaller image is padded to that size with the value 128. A preset's steps
    come between: see `AugmentationPreset`.
    """
    size = cfg.INPUT.IMAGE_SIZE
    chosen = _chosen(cfg)
    whole: list[T.Augmentation] = [
        *chosen.orientation,
        ResizeScale(cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, size, size),
        *chosen.tilt,
    ]
    if chosen.appearance:
        whole += [T.FixedSizeCrop((size, size), pad=False), *chosen.appearance]
    crop = T.FixedSizeCrop((size, size), pad_value=IMAGE_PADDING, seg_pad_value=PADDING_BYTE)
    return [*whole, crop]


def resize_crop_color(cfg: CfgNode, ignore_label: int | None = None) -> list[T.Augmentation]:
    """Build the augmentations of the mask_former_* mappers: resize, crop, colours, flip, pad.

    The shorter side becomes one of ``MIN_SIZE_TRAIN``. ``CROP.ENABLED`` turns the crop on; with
    ``CROP.SINGLE_CATEGORY_MAX_AREA`` below 1 it is drawn again, up to 10 times, while one class
    covers more than that share of its labelled pixels. ``COLOR_AUG_SSD`` turns on the change of
    colours. Sides are padded to multiples of ``SIZE_DIVISIBILITY`` if that is positive. For a
    preset's steps see `AugmentationPreset`.

    Args:
        cfg: the config.
        ignore_label: the label of pixels without a class; None if there are no labels for the crop
            to follow.

    Raises:
        ValueError: the value of a key is not one of the known ones.
    """
    input_ = cfg.INPUT
    _require(input_.MIN_SIZE_TRAIN_SAMPLING, "MIN_SIZE_TRAIN_SAMPLING", ("range", "choice"))
    sizes = input_.MIN_SIZE_TRAIN
    chosen = _chosen(cfg)
    augmentations: list[T.Augmentation] = [
        ResizeShortestEdge(sizes, input_.MAX_SIZE_TRAIN, input_.MIN_SIZE_TRAIN_SAMPLING),
        *chosen.tilt,
    ]
    if input_.CROP.ENABLED:
        kind, size = input_.CROP.TYPE, input_.CROP.SIZE
        kinds = ("relative_range", "relative", "absolute", "absolute_range")
        _require(kind, "CROP.TYPE", kinds)
        largest = input_.CROP.SINGLE_CATEGORY_MAX_AREA
        if ignore_label is None or largest >= 1:
            augmentations.append(T.RandomCrop(kind, size))
        else:
            augmentations.append(
                T.RandomCrop_CategoryAreaConstraint(kind, size, largest, ignore_label)
            )
    if input_.COLOR_AUG_SSD:
        _require_picture(cfg, "COLOR_AUG_SSD")
        _require(input_.FORMAT, "FORMAT", ("RGB", "BGR"))
        augmentations.append(SSDColorJitter(input_.FORMAT))
    augmentations += [*chosen.orientation, *chosen.appearance]
    if input_.SIZE_DIVISIBILITY > 0:
        augmentations.append(PadToMultiple(input_.SIZE_DIVISIBILITY))
    return augmentations


def _require(value: str, key: str, known: tuple[str, ...]) -> None:
    if value not in known:
        names = ", ".join(map(repr, known[:-1])) + f" and {known[-1]!r}"
        raise ValueError(f"INPUT.{key} is {value!r}; known are {names}.")


def _require_picture(cfg: CfgNode, key: str) -> None:
    """Raise `ValueError` if the steps of a key would change the colours of what has none."""
    if cfg.INPUT.FORMAT in STORED_TYPES:
        raise ValueError(
            f"INPUT.{key} {getattr(cfg.INPUT, key)} changes colours of 8 bits, and images are read "
            f"as they are stored (INPUT.FORMAT {cfg.INPUT.FORMAT}): turn it off"
        )


def _chosen(cfg: CfgNode) -> AugmentationPreset:
    """Return the steps of ``INPUT.AUGMENTATION``, which without a preset are the mapper's flip.

    Those of ``INPUT.ALBUMENTATIONS`` follow.
    """
    name, pipeline = cfg.INPUT.AUGMENTATION, cfg.INPUT.ALBUMENTATIONS
    if not name:
        chosen = AugmentationPreset(orientation=_flip(cfg))
    else:
        _require(name, "AUGMENTATION", tuple(AUGMENTATION_PRESETS))
        _require_picture(cfg, "AUGMENTATION")
        chosen = AUGMENTATION_PRESETS[name](cfg.INPUT.FORMAT)
    if pipeline:
        _require_picture(cfg, "ALBUMENTATIONS")
        chosen.appearance.append(Albumentations(pipeline, cfg.INPUT.FORMAT))
    return chosen


def _flip(cfg: CfgNode) -> list[T.Augmentation]:
    direction = cfg.INPUT.RANDOM_FLIP
    _require(direction, "RANDOM_FLIP", ("horizontal", "vertical", "none"))
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]


class _KeepAPixel(T.Augmentation):
    """Resizing that leaves each side of a very thin image at least one pixel."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the resizing for an (H, W, C) image."""
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform):
            size = max(1, resize.new_h), max(1, resize.new_w)
            return ResizeTransform(resize.h, resize.w, *size, resize.interp)
        return resize


class ResizeScale(_KeepAPixel, T.ResizeScale):
    """Detectron2's augmentation of that name, for very thin images too."""


class ResizeShortestEdge(_KeepAPixel, T.ResizeShortestEdge):
    """Detectron2's augmentation of that name, for very thin images too."""


class PadToMultiple(T.Augmentation):
    """Pad on the right and at the bottom until both sides are multiples of `divisor` pixels."""

    def __init__(self, divisor: int):
        super().__init__()
        self.divisor = divisor

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the padding for an (H, W, C) image."""
        height, width = image.shape[:2]
        bottom, right = -height % self.divisor, -width % self.divisor
        if not bottom and not right:
            return T.NoOpTransform()
        return T.PadTransform(0, 0, right, bottom, width, height, IMAGE_PADDING, PADDING_BYTE)
