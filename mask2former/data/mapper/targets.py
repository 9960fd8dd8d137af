"""What a model is to predict: classes and masks from the ground truth of an augmented image.

Shape letters: H, W height and width of the augmented image; N targets; S segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances

from ...structures import PackedMasks
from ...utils.size import Size
from ...utils.text import some_of
from ..errors import DatasetError
from ..label_maps import check_size, look_up, read_panoptic_png
from ..segmentation import decode_rle, parse_polygon, rasterize_polygons

_LISTED = 8  # ids or labels in a message


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
    """Return a target for each annotation that is no crowd and that the crop leaves a pixel of.

    Args:
        dataset_dict: with ``annotations``.
        original_size: of the image in the file.
        transforms: how the image was augmented.
        size: of the augmented image.
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
    annotations = dataset_dict["annotations"]
    classes = []

    def masks() -> Iterator[np.ndarray]:
        for number, annotation in enumerate(annotations):
            if annotation.get("iscrowd", 0):
                continue
            try:
                _check_class(annotation["category_id"], num_classes)
                mask = transform_segmentation(
                    annotation.get("segmentation"), original_size, transforms, size
                )
            except ValueError as error:
                name = f"annotation id {annotation['id']}" if "id" in annotation else None
                name = name or f"annotation number {number} of the image, counted from 0"
                raise DatasetError(f"{name}: {error}.") from error
            if mask.any():
                classes.append(annotation["category_id"])
                yield mask

    instances = _make_instances(PackedMasks.from_masks(masks(), size), classes)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return instances


def _check_class(category_id: int, num_classes: int | None) -> None:
    if num_classes is not None and not 0 <= category_id < num_classes:
        raise ValueError(
            f"class {category_id}, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}: classes "
            f"are 0 to {num_classes - 1}"
        )


def transform_segmentation(
    segmentation: Any,
    original_size: Size,
    transforms: T.TransformList,
    size: Size,
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
        bool mask of `size`, or its upper left part if it is False in the rest.

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


# --- Panoptic segments ---


def read_segments(
    dataset_dict: dict[str, Any], image_size: Size, num_classes: int | None
) -> np.ndarray:
    """Read the panoptic PNG of an image.

    Args:
        dataset_dict: with ``pan_seg_file_name`` and ``segments_info``.
        image_size: of the image in the file, upright.
        num_classes: classes are below this; None does not check.

    Returns:
        (H, W), uint8 or, for more than 254 segments, uint16: 1 + the position in ``segments_info``
        of the segment that a pixel belongs to, or 0 where it belongs to none that is listed.

    Raises:
        DatasetError: something is missing or unusable; the message names it.
    """
    for key in ("pan_seg_file_name", "segments_info"):
        if key not in dataset_dict:
            raise DatasetError(
                f"there is no {key!r}, so there are no panoptic segments to train on. Is this a "
                "test set, or one for another INPUT.DATASET_MAPPER_NAME?"
            )
    path, segments = dataset_dict["pan_seg_file_name"], dataset_dict["segments_info"]
    ids = read_panoptic_png(path)
    check_size(path, ids.shape, dataset_dict["file_name"], image_size)
    # Zeros that are never touched take no memory, so this is quicker than any search.
    numbers = np.zeros(1 << 24, dtype=np.uint8 if len(segments) <= 254 else np.uint16)
    for number, segment in enumerate(segments, start=1):
        segment_id = segment["id"]
        try:
            _check_class(segment["category_id"], num_classes)
            if not 0 < segment_id < len(numbers):
                raise ValueError(f"ids are 1 to {len(numbers) - 1}; 0 is for pixels of no segment")
        except ValueError as error:
            raise DatasetError(f"segment id {segment_id} of {path}: {error}.") from error
        numbers[segment_id] = number
    result = look_up(numbers, ids)
    if len(segments) and not result.any():
        found = np.unique(ids)
        raise DatasetError(
            f"none of the {len(segments)} segments of segments_info is in {path}; listed are "
            f"{some_of([s['id'] for s in segments], _LISTED)}, "
            f"there are {some_of(found, _LISTED)}. "
            "A pixel's id is R + 256 G + 65536 B."
        )
    return result


def labels_of_segments(segments: Sequence[dict[str, Any]], ignore_label: int) -> np.ndarray:
    """Return the class of each number that a map of `read_segments` may hold."""
    count = 256 if len(segments) <= 254 else 1 << 16
    classes = [segment["category_id"] for segment in segments]
    labels = np.full(count, ignore_label, dtype=np.min_scalar_type(max([ignore_label, *classes])))
    labels[1 : len(classes) + 1] = classes
    return labels


def panoptic_targets(numbers: np.ndarray, segments: Sequence[dict[str, Any]]) -> Instances:
    """Return a target for each segment, thing or stuff, that is no crowd and has a pixel.

    Args:
        numbers: (H, W), see `read_segments`.
        segments: ``segments_info``.
    """
    present = set(_distinct(numbers).tolist())
    targets = {
        number: segment["category_id"]
        for number, segment in enumerate(segments, start=1)
        if number in present and not segment.get("iscrowd", 0)
    }
    return _make_instances(PackedMasks.from_ids(numbers, list(targets)), list(targets.values()))


# --- Semantic labels ---


def present_classes(labels: np.ndarray, ignore_label: int, num_classes: int | None) -> list[int]:
    """Return the classes that a label map (H, W) holds, sorted.

    Args:
        labels: (H, W) classes and `ignore_label`.
        ignore_label: value of pixels without class.
        num_classes: classes are below this; None does not check.

    Raises:
        ValueError: there are other values; the message is the reason alone.
    """
    classes = [int(value) for value in _distinct(labels) if value != ignore_label]
    wrong = [c for c in classes if c < 0 or (num_classes is not None and c >= num_classes)]
    if wrong:
        known = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        raise ValueError(
            f"it has labels {some_of(wrong, _LISTED)}, but classes are {known} "
            f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES) and pixels without class are {ignore_label} "
            "(ignore_label of the data set's metadata). Correct the file, the ignore_label or the "
            "number of classes"
        )
    return classes


def semantic_targets(labels: np.ndarray, classes: Sequence[int]) -> Instances:
    """Return a target for each of `classes` in a label map (H, W), in their order."""
    return _make_instances(PackedMasks.from_ids(labels, classes), classes)


def _distinct(labels: np.ndarray) -> np.ndarray:
    """Return the different values, sorted."""
    if labels.dtype in (np.uint8, np.uint16):
        return np.flatnonzero(np.bincount(labels.reshape(-1)))
    return np.unique(labels)
