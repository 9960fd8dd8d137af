"""Turn a Detectron2 dataset dict into what the model takes.

One mapper serves every task; `MAPPER_PRESETS` says which augmentations go with which
``INPUT.DATASET_MAPPER_NAME``.

Shape letters: H, W height and width of the augmented image; N instances; V polygon vertices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from PIL import Image

from .errors import DatasetError
from .segmentation import decode_rle, parse_polygon, rasterize_polygons

# What padding is marked with while a label map goes through the transforms; masks are 0 and 1.
_SEGMENTATION_PADDING = 255


def _flip(cfg: CfgNode) -> list[T.Augmentation]:
    direction = cfg.INPUT.RANDOM_FLIP
    if direction not in ("horizontal", "vertical", "none"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP is {direction!r}; known are 'horizontal', 'vertical' and 'none'."
        )
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]


def large_scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Return flip, random scale and fixed crop: the LSJ of the paper's COCO recipe.

    The image is fitted into a square of a random ``MIN_SCALE`` to ``MAX_SCALE`` times
    ``IMAGE_SIZE`` pixels; a random ``IMAGE_SIZE`` square is cropped from it, or it is padded to
    that with the value 128.
    """
    size = cfg.INPUT.IMAGE_SIZE
    return [
        *_flip(cfg),
        T.ResizeScale(cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, size, size),
        T.FixedSizeCrop((size, size), seg_pad_value=_SEGMENTATION_PADDING),
    ]


# INPUT.DATASET_MAPPER_NAME -> training augmentations.
MAPPER_PRESETS: dict[str, Callable[[CfgNode], list[T.Augmentation]]] = {
    "coco_instance_lsj": large_scale_jitter,
}


class SegmentationMapper:
    """A callable from a dataset dict to a model input, for instance segmentation."""

    @configurable
    def __init__(
        self, is_train: bool = True, *, augmentations: Sequence[T.Augmentation], image_format: str
    ):
        """Build a mapper.

        Args:
            is_train: whether to make targets. Otherwise annotations are neither needed nor read.
            augmentations: applied in this order; a plain `T.AugmentationList` of them draws the
                same random numbers.
            image_format: format of `detectron2.data.detection_utils.read_image`, such as "RGB".
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the constructor's arguments from `cfg`."""
        if not is_train:
            augmentations = detection_utils.build_augmentation(cfg, is_train=False)
        elif cfg.INPUT.DATASET_MAPPER_NAME in MAPPER_PRESETS:
            augmentations = MAPPER_PRESETS[cfg.INPUT.DATASET_MAPPER_NAME](cfg)
        else:
            raise ValueError(
                f"INPUT.DATASET_MAPPER_NAME is {cfg.INPUT.DATASET_MAPPER_NAME!r}; known names "
                f"are {', '.join(sorted(MAPPER_PRESETS))}."
            )
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read, augment and rasterise one image.

        Args:
            dataset_dict: an image in Detectron2's dataset format; not modified. Segmentations may
                be polygons, COCO RLE dicts or bitmaps of the image's size.

        Returns:
            The fields of `dataset_dict` but for its annotations, where ``height`` and ``width``
            are those of the file, and

            * ``image``: (C, H, W) tensor in the format of the file's pixels, uint8 in 0..255;

            and in training

            * ``padding_mask``: (H, W) bool, True on pixels that are padding;
            * ``instances``: Detectron2 `Instances` of size (H, W) with ``gt_classes`` (N,) int64,
              ``gt_masks`` (N, H, W) bool and ``gt_boxes`` tight around the masks. Crowd regions
              and objects that the crop leaves no pixel of are not in it; N may be 0.

        Raises:
            DatasetError: the image cannot be read or has another size than `dataset_dict` says,
                or an annotation is unusable; the message names file, image id and annotation id.
        """
        sample = {k: v for k, v in dataset_dict.items() if k != "annotations"}
        sample = copy.deepcopy(sample)
        image = self._read_image(sample)
        original_size = image.shape[:2]
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        sample["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if not self.is_train:
            return sample

        covered = transforms.apply_segmentation(np.zeros(original_size, dtype=np.uint8))
        sample["padding_mask"] = torch.from_numpy(covered == _SEGMENTATION_PADDING)
        sample["instances"] = self._make_instances(
            dataset_dict, original_size, transforms, image.shape[:2]
        )
        return sample

    def _read_image(self, sample: dict[str, Any]) -> np.ndarray:
        """Read the (H, W, C) image upright; fill in `height` and `width` where they are missing."""
        try:
            image = detection_utils.read_image(sample["file_name"], format=self.image_format)
            detection_utils.check_image_size(sample, image)
        except detection_utils.SizeMismatchError as error:
            raise DatasetError(f"{_where(sample)}: {error}") from error
        # Pillow raises each of these for files that are damaged in one way or another.
        except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DatasetError(f"{_where(sample)}: cannot read the image: {error}") from error
        return image

    def _make_instances(
        self,
        dataset_dict: dict[str, Any],
        original_size: tuple[int, int],
        transforms: T.TransformList,
        size: tuple[int, int],
    ) -> Instances:
        if "annotations" not in dataset_dict:
            raise DatasetError(
                f"{_where(dataset_dict)}: there are no annotations to train on. Is this a test set?"
            )
        annotations = [
            (number, annotation)
            for number, annotation in enumerate(dataset_dict["annotations"])
            if annotation.get("iscrowd", 0) == 0
        ]
        masks = np.zeros((len(annotations), *size), dtype=bool)
        for row, (number, annotation) in enumerate(annotations):
            try:
                masks[row] = transform_segmentation(
                    annotation.get("segmentation"), original_size, transforms, size
                )
            except ValueError as error:
                name = f"annotation id {annotation['id']}" if "id" in annotation else None
                name = name or f"annotation number {number} of the image, counted from 0"
                raise DatasetError(f"{_where(dataset_dict)}, {name}: {error}.") from error

        keep = masks.any(axis=(1, 2))
        classes = np.array([a["category_id"] for _, a in annotations], dtype=np.int64)
        instances = Instances(size)
        # Indexing copies; most images lose nothing to the crop.
        instances.gt_masks = torch.from_numpy(masks if keep.all() else masks[keep])
        instances.gt_classes = torch.from_numpy(classes[keep])
        instances.gt_boxes = BitMasks(instances.gt_masks).get_bounding_boxes()
        return instances


def transform_segmentation(
    segmentation: Any,
    original_size: tuple[int, int],
    transforms: T.TransformList,
    size: tuple[int, int],
) -> np.ndarray:
    """Rasterise one segmentation as the transformed image shows it.

    Polygons are transformed as points and rasterised once, at the final size. Masks are resized to
    the nearest pixel, and padding is never part of them.

    Args:
        segmentation: list of polygons, COCO RLE dict, or (H, W) bitmap of the original size.
        original_size: height and width before `transforms`.
        transforms: geometric transforms.
        size: height and width after them.

    Returns:
        (H, W) bool mask of `size`.

    Raises:
        ValueError: the segmentation is unusable; the message is the reason alone.
    """
    if isinstance(segmentation, (list, tuple)) and len(segmentation):
        polygons = [parse_polygon(polygon) for polygon in segmentation]
        points = transforms.apply_coords(np.concatenate(polygons))
        splits = np.cumsum([len(polygon) for polygon in polygons])[:-1]
        return rasterize_polygons(np.split(points, splits), *size)
    if isinstance(segmentation, dict):
        mask = decode_rle(segmentation, *original_size)
    elif isinstance(segmentation, np.ndarray):
        if segmentation.shape != tuple(original_size):
            raise ValueError(
                f"the bitmap's shape is {segmentation.shape}, the image's {tuple(original_size)}"
            )
        mask = (segmentation != 0).astype(np.uint8)
    elif segmentation is None or isinstance(segmentation, (list, tuple)):
        raise ValueError("there is no segmentation")
    else:
        raise ValueError(
            f"the segmentation is a {type(segmentation).__name__}; it must be a list of polygons, "
            "a COCO RLE dict or a bitmap"
        )
    return transforms.apply_segmentation(np.ascontiguousarray(mask)) == 1


def _where(dataset_dict: dict[str, Any]) -> str:
    return f"{dataset_dict.get('file_name')} (image id {dataset_dict.get('image_id')})"


def build_mapper(cfg: CfgNode, is_train: bool = True) -> SegmentationMapper:
    """Build the mapper that ``INPUT.DATASET_MAPPER_NAME`` names, or the one for inference.

    Raises:
        ValueError: no mapper has that name.
    """
    return SegmentationMapper(cfg, is_train)
