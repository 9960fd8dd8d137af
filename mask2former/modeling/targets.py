"""What a prediction is compared with: the labels and packed masks of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks, polygons_to_bitmask
from torch import Tensor

from ..structures import PackedMasks
from ..utils.size import Size
from .labelled_region import LabelledRegion, find_labelled_region
from .ops.cpu_kernels import cpu_kernel


class _LabelsAndMasks(TypedDict):
    labels: Tensor
    masks: PackedMasks


class Target(_LabelsAndMasks, total=False):
    """Labels (N,) in [0, K), int64, and the N masks of an image.

    ``region`` says which of its pixels count. Without it, all of them do. With it, masks do not
    have other pixels.
    """

    region: LabelledRegion


def image_target(
    x: Mapping[str, Any],
    *,
    num_classes: int,
    padded_size: Size,
    device: torch.device,
    ignore_regions: bool = False,
) -> Target:
    """Build the target of one input of the model.

    Args:
        x: Detectron2's input dict with ``image`` (3, H, W) and ``instances``, which have
            ``gt_classes`` and ``gt_masks``: PackedMasks, BitMasks, PolygonMasks or a tensor.
        num_classes: K.
        padded_size: what the masks are padded to: the size of the network's input.
        device: of the result.
        ignore_regions: whether the target has the ``region`` of `find_labelled_region`, if not all
            pixels are labelled. Objects without a labelled pixel are left out.

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
    target: Target = {"labels": labels, "masks": masks.pad(*padded_size)}
    region = find_labelled_region(x, padded_size, device) if ignore_regions else None
    return target if region is None else _within(region, target)


def _within(region: LabelledRegion, target: Target) -> Target:
    """Leave out the pixels that do not count, and the masks without any others."""
    masks = target["masks"].without(region.ignored)
    kept = masks.any()
    labels = target["labels"]
    if not bool(kept.all()):
        labels, masks = labels[kept], masks[kept]
    return {"labels": labels, "masks": masks, "region": region}


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
    found = []
    for target in targets:
        masks = target["masks"]
        if not isinstance(masks, PackedMasks):
            masks = PackedMasks.from_tensor(masks)
        packed: Target = {"labels": target["labels"], "masks": masks}
        if target.get("region") is not None:
            packed["region"] = target["region"]
        found.append(packed)
    return found


def regions_of(targets: Sequence[Target]) -> list[LabelledRegion | None]:
    """Return the region of each image, or None."""
    return [target.get("region") for target in targets]


def sample_target(target: Target, points: Tensor, of: Tensor | None = None) -> Tensor:
    """Sample masks as `PackedMasks.sample` does, by a compiled kernel where there is one.

    With a region, whose pixels the points must be in, only its pixels are interpolated.

    Args:
        target: of an image.
        points: (x, y) in [0, 1]; (P, 2) for all masks, or (N, P, 2) with different points for each.
        of: indices (N,) of the masks to take instead of all.

    Returns:
        (N, P), float32, in [0, 1].
    """
    values = _sample(target["masks"], points, of)
    region = target.get("region")
    if region is None or not len(values):
        return values
    shared = points.ndim == 2
    first = None if shared else torch.zeros(len(points), dtype=torch.long, device=points.device)
    # The pixel that a point is in has a quarter of the weight at least.
    return values / (1 - _sample(region.plane, points, first))


def _sample(masks: PackedMasks, points: Tensor, of: Tensor | None) -> Tensor:
    kernel = cpu_kernel("sample_packed_masks", masks.planes, points)
    if kernel is None:
        return masks.sample(points, of)
    of = torch.arange(len(masks)) if of is None else of
    return kernel(masks.planes, len(masks), of, points.float(), masks.image_size)
