"""Make the targets of an augmented image, classes and masks, from its ground truth.

Shapes:
    H, W: height and width of the augmented image.
    N: targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances

from ...structures import PackedMasks
from ...utils.size import Size
from ..errors import DatasetError
from ..segmentation import decode_rle, parse_polygon, rasterize_polygons
from .classes import check_class, distinct_values
from .pipeline import points_and_pixels


def _make_instances(masks: PackedMasks, classes: Sequence[int]) -> Instances:
    instances = Instances(masks.image_size)
    instances.gt_masks = masks
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


# --- Instance annotations ---


def instance_targets(
    dataset_dict: dict[str, Any],
    original_size: Size,
    transforms: T.TransformList,
    size: Size,
    num_classes: int | None,
) -> Instances:
    """Make a target of each annotation that is not a crowd and has a pixel in the crop.

    Args:
        dataset_dict: with ``annotations``.
        original_size: (height, width) of the image in the file.
        transforms: how the image was augmented.
        size: (height, width) of the augmented image.
        num_classes: classes are below this; None does not check.

    Returns:
        `Instances` with ``gt_masks``, ``gt_classes`` and ``gt_boxes``, tight around the masks.

    Raises:
        DatasetError: there are no annotations, or one is unusable; the message names it.
    """
    if "annotations" not in dataset_dict:
        raise DatasetError(
            "there are no annotations to train on. Is this a test set, or one for another "
            "INPUT.DATASET_MAPPER_NAME?"
        )
    classes = []

    def masks() -> Iterator[np.ndarray]:
        for number, annotation in enumerate(dataset_dict["annotations"]):
            if annotation.get("iscrowd", 0):
                continue
            with _errors_name(annotation, number):
                check_class(annotation["category_id"], num_classes)
                mask = transform_segmentation(
                    annotation.get("segmentation"), original_size, transforms, size
                )
            if mask.any():
                classes.append(annotation["category_id"])
                yield mask

    instances = _make_instances(PackedMasks.from_masks(masks(), size), classes)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return instances


def crowd_pixels(
    dataset_dict: dict[str, Any], original_size: Size, transforms: T.TransformList, size: Size
) -> np.ndarray:
    """Return where crowd regions are in an augmented image: bool (H, W).

    Args:
        dataset_dict: with ``annotations``.
        original_size: (height, width) of the image in the file.
        transforms: how the image was augmented.
        size: (height, width) of the augmented image.

    Raises:
        DatasetError: a region is unusable; the message names its annotation.
    """
    found = np.zeros(size, dtype=bool)
    for number, annotation in enumerate(dataset_dict["annotations"]):
        if not annotation.get("iscrowd", 0):
            continue
        segmentation = crowd_segmentation(annotation)
        if segmentation is None:
            continue
        with _errors_name(annotation, number):
            mask = transform_segmentation(segmentation, original_size, transforms, size)
        found[: mask.shape[0], : mask.shape[1]] |= mask
    return found


def crowd_segmentation(annotation: dict[str, Any]) -> Any:
    """Return the segmentation of a crowd region, or else its box as one; None without both."""
    segmentation = annotation.get("segmentation")
    if segmentation is not None and len(segmentation):
        return segmentation
    if "bbox" not in annotation:
        return None
    x0, y0, x1, y1 = BoxMode.convert(
        list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS
    )
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


@contextmanager
def _errors_name(annotation: dict[str, Any], number: int) -> Iterator[None]:
    """Within the block, turn `ValueError` into `DatasetError` that names an annotation."""
    try:
        yield
    except ValueError as error:
        name = f"annotation id {annotation['id']}" if "id" in annotation else None
        name = name or f"annotation number {number} of the image, counted from 0"
        raise DatasetError(f"{name}: {error}.") from error


def transform_segmentation(
    segmentation: Any,
    original_size: Size,
    transforms: T.TransformList,
    size: Size,
) -> np.ndarray:
    """Rasterise one segmentation on the grid of the transformed image.

    Polygons are transformed as points and rasterised once, at the final size, or where
    `MovedPixels` begins. Masks are resampled by nearest pixel. Padding is never part of a mask.

    Args:
        segmentation: list of polygons, COCO RLE dict, or (H, W) bitmap of the original size.
        original_size: height and width before `transforms`.
        transforms: geometric transforms.
        size: height and width after them.

    Returns:
        Bool mask of `size`, or its upper left part if the rest is False.

    Raises:
        ValueError: the segmentation is unusable; the message is the reason alone.
    """
    if isinstance(segmentation, (list, tuple)) and len(segmentation):
        polygons = [parse_polygon(polygon, *original_size) for polygon in segmentation]
        first, rest = points_and_pixels(transforms)
        points = first.apply_coords(np.concatenate(polygons))
        outlines = np.split(points, np.cumsum([len(polygon) for polygon in polygons])[:-1])
        if not len(rest):
            return rasterize_polygons(outlines, *size)
        drawn = rasterize_polygons(outlines, *rest[0].size)
        mask = np.zeros(rest[0].size, np.uint8)
        mask[: drawn.shape[0], : drawn.shape[1]] = drawn
        return rest.apply_segmentation(mask) == 1
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


# --- Panoptic segments ---


def panoptic_targets(numbers: np.ndarray, segments: Sequence[dict[str, Any]]) -> Instances:
    """Make a target of each segment, thing or stuff, that is not a crowd and has a pixel.

    Args:
        numbers: (H, W), see `mask2former.data.segment_labels.number_segments`.
        segments: ``segments_info``.
    """
    present = set(distinct_values(numbers).tolist())
    targets = {
        number: segment["category_id"]
        for number, segment in enumerate(segments, start=1)
        if number in present and not segment.get("iscrowd", 0)
    }
    return _make_instances(PackedMasks.from_ids(numbers, list(targets)), list(targets.values()))


# --- Semantic labels ---


def semantic_targets(labels: np.ndarray, classes: Sequence[int]) -> Instances:
    """Make a target of each of `classes` in a label map (H, W), in their order."""
    return _make_instances(PackedMasks.from_ids(labels, classes), classes)
