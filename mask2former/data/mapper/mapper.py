"""Turn a Detectron2 dataset dict into what the model takes.

One mapper serves every task. `MAPPER_PRESETS` says which ground truth and which augmentations
belong to each ``INPUT.DATASET_MAPPER_NAME``.

Shapes:
    H, W: height and width of the augmented image.
    N: targets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog, detection_utils
from detectron2.data import transforms as T

from mask2former_runtime.image import IMAGE_FORMATS, ImageReadError
from mask2former_runtime.stored import STORED_TYPES

from ...tasks import TaskName
from ..errors import DatasetError
from ..image import read_input
from ..label_maps import check_size, read_label_map
from ..segment_labels import segment_classes
from .augmentations import ResizeShortestEdge, large_scale_jitter, resize_crop_color
from .classes import present_classes
from .labelled_input import PADDING_BYTE, LabelledInput
from .object_crop import ObjectCrop
from .segments import read_segments
from .targets import crowd_pixels, instance_targets, panoptic_targets, semantic_targets


@dataclass(frozen=True)
class MapperPreset:
    """What a value of ``INPUT.DATASET_MAPPER_NAME`` means."""

    targets: TaskName
    """The ground truth to read, which is annotations, panoptic segments or semantic labels."""
    augmentations: Callable[[CfgNode, int | None], list[T.Augmentation]]
    """Builds them from a config and the label of pixels without a class, None for instances."""


MAPPER_PRESETS: dict[str, MapperPreset] = {
    "coco_instance_lsj": MapperPreset("instance", large_scale_jitter),
    "coco_panoptic_lsj": MapperPreset("panoptic", large_scale_jitter),
    "mask_former_instance": MapperPreset("instance", resize_crop_color),
    "mask_former_panoptic": MapperPreset("panoptic", resize_crop_color),
    "mask_former_semantic": MapperPreset("semantic", resize_crop_color),
}


class SegmentationMapper:
    """A callable from a dataset dict to a model input.

    Args:
        is_train: whether to make targets. Otherwise ground truth is neither needed nor read.
        augmentations: applied in this order; a plain `T.AugmentationList` of them draws the same
            random numbers.
        image_format: order of the channels, "RGB" or "BGR"; or one of `STORED_TYPES`, for images as
            they are stored.
        targets: what the targets are: ``annotations`` one by one ("instance"), segments of the
            panoptic PNG, things one by one ("panoptic"), or the classes in the semantic label map
            ("semantic").
        num_classes: classes in the ground truth must be 0 to this - 1; None does not check.
        ignore_label: value of pixels without a class in the label map.
        ignore_regions: whether to add ``ignored_mask`` to training samples.
        object_crop: draws windows before the augmentations; None takes whole images.
        pixel_mean: mean of each channel. Images as they are stored have so many channels, and these
            values are their padding.

    Raises:
        ValueError: there is no such `image_format`, or it has another number of channels.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        targets: TaskName = "instance",
        num_classes: int | None = None,
        ignore_label: int = 255,
        ignore_regions: bool = False,
        object_crop: ObjectCrop | None = None,
        pixel_mean: Sequence[float] | None = None,
    ):
        self.is_stored = image_format in STORED_TYPES
        if image_format not in IMAGE_FORMATS and not self.is_stored:
            raise ValueError(
                f"INPUT.FORMAT is {image_format!r}; known are 'RGB' and 'BGR', and, for images as "
                f"they are stored, {', '.join(map(repr, STORED_TYPES))}."
            )
        if pixel_mean is not None and not self.is_stored and len(pixel_mean) != 3:
            raise ValueError(
                f"MODEL.PIXEL_MEAN has {len(pixel_mean)} values, and pictures ({image_format}) "
                "have 3 channels: set INPUT.FORMAT to the type of the values in your files"
            )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.targets = targets
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.ignore_regions = ignore_regions
        self.object_crop = object_crop
        self.pixel_mean = pixel_mean

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the constructor's arguments from `cfg`."""
        if not is_train:
            sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
            return {
                "is_train": False,
                "augmentations": [ResizeShortestEdge(*sizes, "choice")],
                "image_format": cfg.INPUT.FORMAT,
                "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            }
        preset = get_preset(cfg)
        ignore_label = None if preset.targets == "instance" else _ignore_label(cfg)
        arguments = {
            "is_train": True,
            "augmentations": preset.augmentations(cfg, ignore_label),
            "image_format": cfg.INPUT.FORMAT,
            "targets": preset.targets,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_regions": cfg.MODEL.MASK_FORMER.IGNORE_REGIONS,
            "object_crop": ObjectCrop.from_config(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        }
        return arguments if ignore_label is None else {**arguments, "ignore_label": ignore_label}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and augment one image and its ground truth.

        Args:
            dataset_dict: an image in Detectron2's dataset format; not modified. Segmentations may
                be polygons, COCO RLE dicts or bitmaps of the image's size.

        Returns:
            The fields of `dataset_dict` without its ground truth. ``height`` and ``width`` are
            those of the upright image in the file. Added are

            * ``image``: (3, H, W) tensor, uint8 in 0..255, or (C, H, W) float32 of an image as it
              is stored; see `mask2former.data.image.read_input`;

            and in training

            * ``padding_mask``: (H, W) bool, True on pixels that are padding;
            * ``instances``: Detectron2 `Instances` of size (H, W) with ``gt_classes`` (N,) int64
              and ``gt_masks``, N masks (H, W); for annotations also ``gt_boxes`` tight around
              the masks. Crowds, and objects outside the crop, are left out; N may be 0;
            * ``sem_seg``: (H, W) int64, classes and `ignore_label`, also on padding. Present for
              semantic targets, and for panoptic targets if the data set has label maps;
            * ``ignored_mask``, with `ignore_regions`: (H, W) bool, True on pixels of the image that
              nobody labelled. For semantic and panoptic targets these are the pixels of none of
              them, and for annotations the crowd regions outside the objects. It is False on
              padding.

        Raises:
            DatasetError: a file cannot be read or does not have the expected size, or the ground
                truth is unusable; the message names file, image id and annotation or segment id.
        """
        try:
            return self._map(dataset_dict)
        except DatasetError as error:
            name = f"{dataset_dict.get('file_name')} (image id {dataset_dict.get('image_id')})"
            raise DatasetError(f"{name}: {error}") from error

    def _map(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dropped = ["annotations", "sem_seg_file_name"]
        if self.is_train:
            dropped += ["pan_seg_file_name", "segments_info"]
        sample = copy.deepcopy({k: v for k, v in dataset_dict.items() if k not in dropped})
        image = self._read_image(sample)
        if not self.is_train:
            augmented = T.AugInput(image)
            self.augmentations(augmented)
            sample["image"] = _as_tensor(augmented.image)
            return sample

        labelled = self._with_ground_truth(image, dataset_dict)
        window = self._window(labelled, dataset_dict)
        transforms = window + self.augmentations(labelled)
        blank = np.zeros(image.shape[:2], dtype=np.uint8)
        padding = transforms.apply_segmentation(blank) == PADDING_BYTE
        sample["padding_mask"] = torch.from_numpy(padding)
        if self.is_stored and self.pixel_mean is not None and padding.any():
            labelled.image[padding] = np.asarray(self.pixel_mean, np.float32)
        sample["image"] = _as_tensor(labelled.image)
        classes: list[int] = []
        if labelled.labels is not None:
            ignored = labelled.labels.dtype.type(self.ignore_label)
            labels = np.where(padding, ignored, labelled.labels)
            try:
                classes = present_classes(labels, self.ignore_label, self.num_classes)
            except ValueError as error:
                raise DatasetError(f"{dataset_dict['sem_seg_file_name']}: {error}.") from error
            sample["sem_seg"] = torch.from_numpy(labels.astype(np.int64))
        if self.targets == "semantic":
            sample["instances"] = semantic_targets(labels, classes)
        elif labelled.segments is not None:
            sample["instances"] = panoptic_targets(labelled.segments, dataset_dict["segments_info"])
        else:
            sample["instances"] = instance_targets(
                dataset_dict, image.shape[:2], transforms, padding.shape, self.num_classes
            )
        if self.ignore_regions:
            # What an object, a segment or a class covers has a label.
            ignored = ~sample["instances"].gt_masks.union().numpy() & ~padding
            if self.targets == "instance":
                ignored &= crowd_pixels(dataset_dict, image.shape[:2], transforms, padding.shape)
            sample["ignored_mask"] = torch.from_numpy(ignored)
        return sample

    def _window(self, labelled: LabelledInput, dataset_dict: dict[str, Any]) -> T.TransformList:
        """Cut a window out of the image, if there is to be one."""
        try:
            crop = self.object_crop and self.object_crop.transform(
                labelled, dataset_dict, self.ignore_label
            )
        except ValueError as error:
            raise DatasetError(f"{error}.") from error
        if crop is None:
            return T.TransformList([])
        labelled.transform(crop)
        return T.TransformList([crop])

    def _read_image(self, sample: dict[str, Any]) -> np.ndarray:
        """Read the upright (H, W, C) image; fill in `height` and `width` where they are missing."""
        path = sample["file_name"]
        try:
            channels = None if self.pixel_mean is None else len(self.pixel_mean)
            image = read_input(path, self.image_format, channels)
            detection_utils.check_image_size(sample, image)
        except ImageReadError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise DatasetError(f"cannot read the image: {reason}") from error
        except detection_utils.SizeMismatchError as error:
            raise DatasetError(str(error)) from error
        return image

    def _with_ground_truth(self, image: np.ndarray, dataset_dict: dict[str, Any]) -> LabelledInput:
        """Read the maps that go through the augmentations together with the image."""
        labels = segments = segment_labels = None
        if self.targets == "semantic" and "sem_seg_file_name" not in dataset_dict:
            raise DatasetError(
                "there is no 'sem_seg_file_name', so there are no labels to train on. Is this a "
                "test set, or one for another INPUT.DATASET_MAPPER_NAME?"
            )
        if self.targets != "instance" and "sem_seg_file_name" in dataset_dict:
            path = dataset_dict["sem_seg_file_name"]
            labels = read_label_map(path)
            check_size(path, labels.shape, dataset_dict["file_name"], image.shape[:2])
            # The type must hold ignore_label, which padding gets.
            kind = np.result_type(labels.dtype, np.min_scalar_type(self.ignore_label))
            labels = labels.astype(kind, copy=False)
        if self.targets == "panoptic":
            segments = read_segments(dataset_dict, image.shape[:2], self.num_classes)
            segment_labels = segment_classes(dataset_dict["segments_info"], self.ignore_label)
        return LabelledInput(image, labels=labels, segments=segments, segment_labels=segment_labels)


def _as_tensor(image: np.ndarray) -> torch.Tensor:
    """Return the (C, H, W) tensor of an (H, W, C) image."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def get_preset(cfg: CfgNode) -> MapperPreset:
    """Return the preset that ``INPUT.DATASET_MAPPER_NAME`` names.

    Raises:
        ValueError: no preset has that name.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in MAPPER_PRESETS:
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME is {name!r}; known names are "
            f"{', '.join(sorted(MAPPER_PRESETS))}."
        )
    return MAPPER_PRESETS[name]


def _ignore_label(cfg: CfgNode) -> int:
    """Return the ``ignore_label`` that the metadata of all training sets agree on.

    Sets without one have Detectron2's ``MODEL.SEM_SEG_HEAD.IGNORE_VALUE``.
    """
    default = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    found = {}
    for name in cfg.DATASETS.TRAIN:
        value = MetadataCatalog.get(name).get("ignore_label")
        found[name] = default if value is None else int(value)
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{value} in {name}" for name, value in found.items())
        raise DatasetError(
            "The data sets of DATASETS.TRAIN must mark pixels without a class by the same number, "
            f"but their ignore_label is {listed}. Convert the label maps of one of them."
        )
    return next(iter(found.values()), default)


def build_mapper(cfg: CfgNode, is_train: bool = True) -> SegmentationMapper:
    """Build the mapper that ``INPUT.DATASET_MAPPER_NAME`` names, or the one for inference.

    Raises:
        ValueError: no mapper has that name, or an augmentation's key has an unknown value.
    """
    return SegmentationMapper(cfg, is_train)


def build_validation_mapper(cfg: CfgNode) -> SegmentationMapper:
    """Build a mapper that makes the targets of training for images of the size of inference.

    Raises:
        ValueError: no mapper has the name in ``INPUT.DATASET_MAPPER_NAME``.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST  # whose label maps are read
    arguments = SegmentationMapper.from_config(cfg, is_train=True)
    arguments["augmentations"] = SegmentationMapper.from_config(cfg, is_train=False)[
        "augmentations"
    ]
    arguments["object_crop"] = None
    return SegmentationMapper(**arguments)
