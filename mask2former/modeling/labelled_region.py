"""Losses on the pixels that somebody labelled.

As published, pixels without a label are pixels outside every object. Here they do not count: the
points at which masks are compared are drawn from the labelled pixels only, all of them alike, and
what a point reads of a target is interpolated between labelled pixels. So the losses on masks
estimate their means over the labelled pixels, and no label of another pixel has an effect.

Shapes:
    N: rows of points, P: points of a row, k: points that move, L: labelled pixels, Q: queries,
    H, W: size of the padded image, h, w: of the masks of queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..structures import PackedMasks
from ..utils.size import Size
from .draws import rand, rand_many

# A query that matches nothing is left alone if more than this share of its mask is unknown.
_MOSTLY = 0.5


class LabelledRegion:
    """The pixels of a padded image that count, and those that do not.

    Args:
        ignored: bool (H, W), pixels that nobody labelled. They may show objects.
    """

    def __init__(self, ignored: Tensor):
        self.ignored = ignored
        self.plane = PackedMasks.from_tensor(self.ignored[None])
        # of the labelled pixels, (L,) each; one tensor (L, 2) would take ten times as long to index
        self._rows, self._columns = (~self.ignored).nonzero().float().T.contiguous()
        self._shares: dict[Size, Tensor] = {}

    def ignored_points(self, points: Tensor) -> Tensor:
        """Return which of (N, P, 2) points, in [0, 1], are in ignored pixels, as indices (k,).

        They count through all rows. If all pixels are ignored, there are none: no target is left,
        and no point matters.
        """
        if not len(self._rows):
            return torch.zeros(0, dtype=torch.long, device=points.device)
        height, width = self.ignored.shape
        numbers = (points[..., 1] * height).long().mul_(width)
        numbers += (points[..., 0] * width).long()
        numbers = numbers.flatten().clamp_(max=height * width - 1)
        return self.ignored.flatten().index_select(0, numbers).nonzero()[:, 0]

    def moved(self, points: Tensor, lots: Tensor) -> Tensor:
        """Move points (k, 2) to labelled pixels drawn at random, to the same place within them.

        Uniform points of which the ignored ones are moved are uniform in the labelled pixels.

        Args:
            points: (x, y) in [0, 1].
            lots: (k, 2), uniform in [0, 1): the draws.
        """
        # 32 random bits, since the 24 of a draw do not choose evenly among a million pixels
        high, low = (lots * 65536).long().unbind(1)
        chosen = (high * 65536 + low) * len(self._rows) >> 32
        cells = torch.stack([x.index_select(0, chosen) for x in (self._columns, self._rows)], dim=1)
        height, width = self.ignored.shape
        size = points.new_tensor((width, height))
        return cells.add_((points * size).frac_()).div_(size)

    def mostly_ignored(self, masks: Tensor) -> Tensor:
        """Return whether more than half of each mask is on ignored pixels: bool (Q,).

        It is not for a mask without a pixel.

        Args:
            masks: logits (Q, h, w); a mask is where they are above 0.
        """
        size = (masks.shape[1], masks.shape[2])
        if size not in self._shares:
            self._shares[size] = F.adaptive_avg_pool2d(self.ignored[None].float(), size).flatten()
        inside = (masks > 0).flatten(1).float()
        return inside @ self._shares[size] > _MOSTLY * inside.sum(1)


def find_labelled_region(
    x: Mapping[str, Any], padded_size: Size, device: torch.device
) -> LabelledRegion | None:
    """Return the region of one input of the model; None if the whole image is labelled.

    Padding is labelled: no object is there.

    Args:
        x: Detectron2's input dict with ``image`` (3, H, W), and optionally ``ignored_mask``, bool
            (H, W), as the mapper gives it. Without it the whole image is labelled.
        padded_size: of the network's input.
        device: of the result.

    Raises:
        ValueError: a mask does not have the image's size; the message names the file.
    """
    mask = x.get("ignored_mask")
    if mask is None:
        return None
    size, mask = tuple(x["image"].shape[-2:]), torch.as_tensor(mask)
    if tuple(mask.shape) != size:
        raise ValueError(
            f"{x.get('file_name', 'an image')}: ignored_mask has the shape {tuple(mask.shape)}, "
            f"the image {size}"
        )
    if not bool(mask.any()):
        return None
    bottom, right = padded_size[0] - size[0], padded_size[1] - size[1]
    return LabelledRegion(F.pad(mask.to(device=device, dtype=torch.bool), (0, right, 0, bottom)))


def draw_points(
    counts: Sequence[int],
    num_points: int,
    regions: Sequence[LabelledRegion | None] | None,
    device: torch.device,
) -> Tensor:
    """Draw points uniformly in the labelled pixels of images.

    For images without a region, they are the points that `rand_many` draws.

    Args:
        counts: rows of points of each image of the batch.
        num_points: P.
        regions: of each image; None if no image has one.
        device: of the result.

    Returns:
        (sum of `counts`, P, 2), (x, y) in [0, 1], float32.
    """
    points = rand_many(counts, num_points, 2, device=device)
    if regions is None or not any(regions):
        return points
    rows = points.split(list(counts))
    indices = [
        part.new_zeros(0).long() if region is None else region.ignored_points(part)
        for part, region in zip(rows, regions, strict=True)
    ]
    numbers = [len(i) for i in indices]
    lots = rand(numbers, 2, device=device).split(numbers)
    for part, region, i, lot in zip(rows, regions, indices, lots, strict=True):
        if region is not None:
            flat = part.view(-1, 2)
            flat[i] = region.moved(flat[i], lot)
    return points
