"""Copy-paste augmentation: objects of another training image are pasted onto a sample.

As in "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (Ghiasi et
al., arXiv 2012.07177), both images are augmented on their own first, and a random half of the
objects is pasted, without blending their borders. Here each object gets a random place.

Shapes:
    H, W: height and width of the sample, h, w: of an object's box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from mask2former_runtime.maps import box_of

from ...structures import PackedMasks
from ...utils.size import Size

_SHARE = 0.5  # of the objects of the other image that are pasted
# An object of which less than this share of its pixels is left is no target any more.
_LEAST_VISIBLE = 0.1

Sample = dict[str, Any]


class CopyPaste:
    """Pastes objects onto some of the samples of a `SegmentationMapper` for instances.

    All draws come from NumPy's global generator, after those of the mapper: under a seed, a sample
    is that without pasting, with objects on it.

    Args:
        probability: of a sample to get objects.
        shares: (N,) how often each of N images gives its objects, relative to the others.
    """

    def __init__(self, probability: float, shares: np.ndarray):
        self.probability = probability
        self._ends = np.cumsum(shares)

    def __call__(self, sample: Sample, mapped: Callable[[int], Sample | None]) -> None:
        """Change a sample in place.

        Args:
            sample: of the mapper.
            mapped: number of an image -> its sample; None if the image cannot be used.
        """
        generator = np.random.default_rng(np.random.randint(1 << 31))  # noqa: NPY002
        if generator.random() >= self.probability:
            return
        place = generator.random() * self._ends[-1]
        number = int(np.searchsorted(self._ends, place, side="right"))
        other = mapped(min(number, len(self._ends) - 1))
        if other is not None:
            paste_objects(sample, other, generator)


@dataclass
class _Pasted:
    """An object in its place.

    Attributes:
        category: its class.
        mask: (H, W) bool, what is visible of it.
        area: pixels that it had before others covered it.
    """

    category: int
    mask: np.ndarray
    area: int


def paste_objects(sample: Sample, other: Sample, generator: np.random.Generator) -> None:
    """Paste a random half of the objects of another sample onto a sample, which is changed.

    Each lies somewhere on the image, not on padding, and hides what is below it, objects pasted
    before it included. Objects that the border of their own crop cuts off, or that are larger than
    the image, are not pasted. Of the hidden objects, those with less than a tenth of their pixels
    left are no targets any more; what is left of them has no label (``ignored_mask``).

    Args:
        sample: see `SegmentationMapper`, of instance annotations.
        other: likewise.
        generator: draws.
    """
    image, valid = sample["image"].numpy(), ~sample["padding_mask"].numpy()
    covered = np.zeros(valid.shape, bool)
    pasted: list[_Pasted] = []
    theirs, edges = other["instances"], box_of(~other["padding_mask"].numpy())
    for number in generator.permutation(len(theirs)).tolist():
        if generator.random() >= _SHARE:
            continue
        mask = theirs.gt_masks[number].tensor[0].numpy()
        left, top, right, bottom = box = box_of(mask)
        if any(a == b for a, b in zip(box, edges, strict=True)):
            continue
        place = _place((bottom - top, right - left), valid, generator)
        if place is None:
            continue
        pixels = mask[top:bottom, left:right] & valid[place]
        if not pixels.any():
            continue
        colors = other["image"].numpy()[:, top:bottom, left:right]
        np.copyto(image[(slice(None), *place)], colors, where=pixels)
        for below in pasted:
            below.mask[place] &= ~pixels
        covered[place] |= pixels
        full = np.zeros(valid.shape, bool)
        full[place] = pixels
        pasted.append(_Pasted(int(theirs.gt_classes[number]), full, int(pixels.sum())))
    if pasted:
        _join(sample, pasted, covered)


def _place(
    size: Size, valid: np.ndarray, generator: np.random.Generator
) -> tuple[slice, slice] | None:
    """Draw a place for a box (h, w) within the image; None if it is larger than that."""
    left, top, right, bottom = box_of(valid)
    height, width = size
    if height > bottom - top or width > right - left:
        return None
    y = int(generator.integers(top, bottom - height + 1))
    x = int(generator.integers(left, right - width + 1))
    return slice(y, y + height), slice(x, x + width)


def _join(sample: Sample, pasted: list[_Pasted], covered: np.ndarray) -> None:
    """Put the pasted objects among the targets, and cut what they cover off the others."""
    before: Instances = sample["instances"]
    masks = before.gt_masks.without(torch.from_numpy(covered))
    remains = np.zeros(covered.shape, bool)
    kept = []
    for number, (whole, mask) in enumerate(zip(before.gt_masks, masks, strict=True)):
        if _is_visible(int(mask.sum()), int(whole.sum())):
            kept.append(number)
        else:
            remains |= mask.numpy()
    for item in pasted:
        if not _is_visible(int(item.mask.sum()), item.area):
            remains |= item.mask
    shown = [item for item in pasted if _is_visible(int(item.mask.sum()), item.area)]
    size = before.image_size
    new = PackedMasks.from_masks([item.mask for item in shown], size)
    classes = torch.tensor([item.category for item in shown], dtype=torch.int64)
    instances = Instances(size)
    instances.gt_masks = PackedMasks.cat([masks[kept], new])
    instances.gt_classes = torch.cat([before.gt_classes[kept], classes])
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    sample["instances"] = instances
    if "ignored_mask" in sample:
        labelled = instances.gt_masks.union().numpy() | covered & ~remains
        ignored = (sample["ignored_mask"].numpy() | remains) & ~labelled
        sample["ignored_mask"] = torch.from_numpy(ignored)


def _is_visible(area: int, before: int) -> bool:
    return area > 0 and area >= _LEAST_VISIBLE * before
