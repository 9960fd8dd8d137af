"""What a prediction is compared with: the labels and packed masks of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks, polygons_to_bitmask
from torch import Tensor

from ..structures import PackedMasks
from ..utils.size import Size
from .ops.cpu_kernels import cpu_kernel


class Target(TypedDict):
    """Labels (N,) in [0, K), int64, and the N masks of an image."""

    labels: Tensor
    masks: PackedMasks


def image_target(
    x: Mapping[str, Any], *, num_classes: int, padded_size: Size, device: torch.device
) -> Target:
    """Build the target of one input of the model.

    Args:
        x: Detectron2's input dict with ``image`` (3, H, W) and ``instances``, which have
            ``gt_classes`` and ``gt_masks``: PackedMasks, BitMasks, PolygonMasks or a tensor.
        num_classes: K.
        padded_size: what the masks are padded to: the size of the network's input.
        device: of the result.

    Raises:
        ValueError: something is missing or does not fit; the message names the file.
    """
    name = x.get("file_name", "an image")
    if "instances" not in x:
        raise ValueError(f"training needs 'instances', which the input of {name} lacks")
    instances = x["instances"]
    masks = packed_gt_masks(instances, device)
    size = tuple(x["image"].shape[-2:])
    if masks.image_size != size:
        raise ValueError(f"{name}: the masks have the size {masks.image_size}, the image {size}")
    labels = instances.gt_classes.to(device)
    least, greatest = labels.aminmax() if len(labels) else (0, 0)
    for label in (int(least), int(greatest)):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"{name}: class {label} in the annotations, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
                f"{num_classes}"
            )
    return {"labels": labels, "masks": masks.pad(*padded_size)}


def packed_gt_masks(instances: Instances, device: torch.device) -> PackedMasks:
    """Pack ``gt_masks`` of any kind on ``device``; only empty instances may lack them."""
    height, width = instances.image_size
    if not instances.has("gt_masks"):
        if len(instances):
            raise ValueError(
                "instances without masks: Mask2Former learns from masks; with Detectron2's own "
                "DatasetMapper set MODEL.MASK_ON True"
            )
        return PackedMasks.from_masks((), (height, width)).to(device)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        bitmaps = (polygons_to_bitmask(polygons, height, width) for polygons in masks)
        masks = PackedMasks.from_masks(bitmaps, (height, width))
    if isinstance(masks, PackedMasks):
        return masks.to(device)
    if isinstance(masks, BitMasks):
        masks = masks.tensor
    if not isinstance(masks, Tensor):
        raise ValueError(
            f"gt_masks are {type(masks).__name__}; known are PackedMasks, BitMasks, PolygonMasks "
            "and tensors (N, H, W)"
        )
    return PackedMasks.from_tensor(masks.to(device))


def packed_targets(targets: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Pack the masks of targets, which may be tensors (N, H, W)."""
    return [
        {
            "labels": target["labels"],
            "masks": target["masks"]
            if isinstance(target["masks"], PackedMasks)
            else PackedMasks.from_tensor(target["masks"]),
        }
        for target in targets
    ]


def sample_target(masks: PackedMasks, points: Tensor, of: Tensor | None = None) -> Tensor:
    """Sample masks as `PackedMasks.sample` does, by a compiled kernel where there is one."""
    kernel = cpu_kernel("sample_packed_masks", masks.planes, points)
    if kernel is None:
        return masks.sample(points, of)
    of = torch.arange(len(masks)) if of is None else of
    return kernel(masks.planes, len(masks), of, points.float(), masks.image_size)
