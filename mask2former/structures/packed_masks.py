"""Binary masks at one bit per pixel.

Shapes:
    N: masks, B: planes of eight masks each, P: points, H, W: size of the masks,
    h, w: size of the part of them that is stored; the rest is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional as F

from ..utils.size import Size


class PackedMasks:
    """N binary masks of one size as bit planes: 300 masks of 1024 x 1024 pixels take 38 MB.

    It replaces Detectron2's ``BitMasks``, in ``Instances`` too: indexing, ``cat``, ``to``,
    iteration over (H, W) masks, and bounding boxes are the same.

    Args:
        planes: (ceil(N / 8), h, w), uint8. Mask n is bit n % 8 of plane n // 8.
        num_masks: N.
        image_size: (H, W), by default (h, w). What is larger is padding on the right and at the
            bottom, where no mask is.
    """

    def __init__(self, planes: Tensor, num_masks: int, image_size: Size | None = None):
        if planes.dtype != torch.uint8 or planes.ndim != 3 or len(planes) != -(-num_masks // 8):
            raise ValueError(
                f"planes of {num_masks} masks must be uint8 ({-(-num_masks // 8)}, H, W), "
                f"got {planes.dtype} {tuple(planes.shape)}"
            )
        height, width = image_size if image_size is not None else planes.shape[1:]
        if height < planes.shape[1] or width < planes.shape[2]:
            raise ValueError(
                f"image_size {(height, width)} is smaller than that of the masks, "
                f"{tuple(planes.shape[1:])}"
            )
        self.planes = planes
        self.image_size: Size = (int(height), int(width))
        self._num_masks = num_masks

    @classmethod
    def from_masks(cls, masks: Iterable[np.ndarray], size: Size) -> PackedMasks:
        """Pack masks as they come; only one of them is held at a time.

        Args:
            masks: (h, w) arrays; what is not 0 is in the mask. One that is smaller than `size` is
                the upper left corner of a mask that is empty elsewhere.
            size: (H, W), also if there are no masks.

        Raises:
            ValueError: a mask is larger than `size`.
        """
        planes: list[np.ndarray] = []
        columns: np.ndarray | None = None  # the last plane's masks that are stored by columns
        count = 0
        for mask in masks:
            height, width = mask.shape
            if height > size[0] or width > size[1]:
                raise ValueError(f"mask {count} has the shape {mask.shape}, more than {size}")
            if count % 8 == 0:
                _merge_columns(planes, columns)
                columns = None
                planes.append(np.zeros(size, dtype=np.uint8))
            bits = mask.astype(bool, copy=False).view(np.uint8) * np.uint8(1 << count % 8)
            if mask.flags.c_contiguous:
                planes[-1][:height, :width] |= bits
            else:
                columns = np.zeros(size[::-1], dtype=np.uint8) if columns is None else columns
                columns[:width, :height] |= bits.T
            count += 1
        _merge_columns(planes, columns)
        stacked = np.stack(planes) if planes else np.zeros((0, *size), dtype=np.uint8)
        return cls(torch.from_numpy(stacked), count)

    @classmethod
    def from_ids(cls, id_map: np.ndarray, ids: Sequence[int]) -> PackedMasks:
        """Pack the masks that a map of integer ids (H, W) shows: one for each of ``ids``.

        Raises:
            ValueError: the map has another number of axes.
        """
        if id_map.ndim != 2:
            raise ValueError(f"a map of ids is (H, W), got the shape {id_map.shape}")
        height, width = id_map.shape
        return cls.from_masks((id_map == i for i in ids), (height, width))

    @classmethod
    def from_tensor(cls, masks: Tensor) -> PackedMasks:
        """Pack a tensor (N, H, W) on its device; what is not 0 is in the mask.

        Raises:
            ValueError: the masks have fractions, as soft masks do.
        """
        if masks.ndim != 3:
            raise ValueError(f"masks are (N, H, W), got the shape {tuple(masks.shape)}")
        if masks.is_floating_point() and bool((masks != masks.round()).any()):
            raise ValueError("masks must be booleans or whole numbers; these have fractions")
        count, height, width = masks.shape
        return cls(
            _pack(count, (height, width), masks.device, lambda part: masks[part] != 0), count
        )

    def __len__(self) -> int:
        return self._num_masks

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"PackedMasks(num_masks={len(self)}, height={height}, width={width})"

    def __getitem__(self, item: int | slice | Sequence[int] | Tensor) -> PackedMasks:
        """Copy the masks of an index, a slice, indices or a bool tensor (N,)."""
        indices = self._indices(item)
        bits = (indices % 8).to(torch.uint8)[:, None, None]
        _, h, w = self.planes.shape
        planes = _pack(
            len(indices),
            (h, w),
            self.device,
            lambda part: (self.planes.index_select(0, indices[part] // 8) >> bits[part]) & 1,
        )
        return PackedMasks(planes, len(indices), self.image_size)

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over the masks, bool (H, W) each."""
        for i in range(len(self)):
            yield self[i].tensor[0]

    @staticmethod
    def cat(parts: Sequence[PackedMasks]) -> PackedMasks:
        """Copy all masks of containers that have the same image size, in their order.

        Raises:
            ValueError: the image sizes differ, or there is no container.
        """
        sizes = {part.image_size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"cannot join masks of different sizes, or none: {sorted(sizes)}")
        # The padding of parts that store different sizes becomes explicit.
        height = max(part.planes.shape[1] for part in parts)
        width = max(part.planes.shape[2] for part in parts)
        planes = torch.cat([_padded(part.planes, height, width) for part in parts])
        # The last plane of a part may have bits to spare.
        used = [i < len(part) for part in parts for i in range(8 * len(part.planes))]
        return PackedMasks(planes, 8 * len(planes), sizes.pop())[
            torch.tensor(used, dtype=torch.bool)
        ]

    def to(self, *args: Any, **kwargs: Any) -> PackedMasks:
        """Move to another device, by the arguments of ``Tensor.to``; the type stays the same.

        Raises:
            ValueError: the arguments name another type.
        """
        planes = self.planes.to(*args, **kwargs)
        if planes.dtype != torch.uint8:
            raise ValueError("packed masks cannot change their type; take .tensor.to(dtype)")
        return PackedMasks(planes, len(self), self.image_size)

    def pin_memory(self) -> PackedMasks:
        """Copy to memory from which copies to a GPU are fast."""
        return PackedMasks(self.planes.pin_memory(), len(self), self.image_size)

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.planes.device

    @property
    def tensor(self) -> Tensor:
        """The masks as a new bool tensor (N, H, W)."""
        return _padded(_unpacked(self.planes, len(self)).bool(), *self.image_size)

    def pad(self, height: int, width: int) -> PackedMasks:
        """Pad the image on the right and at the bottom, without a copy of the masks.

        Args:
            height: H of the result.
            width: W of the result.

        Raises:
            ValueError: the size is smaller than that of the masks.
        """
        if height < self.image_size[0] or width < self.image_size[1]:
            raise ValueError(f"cannot pad masks of {self.image_size} to {(height, width)}")
        return PackedMasks(self.planes, len(self), (height, width))

    def any(self) -> Tensor:
        """Return whether each mask has a pixel: bool (N,)."""
        return self._projected(1).any(1)

    def union(self) -> Tensor:
        """Return where at least one mask is: bool (H, W)."""
        found = torch.zeros((1, *self.planes.shape[1:]), dtype=torch.bool, device=self.device)
        for plane in self.planes:
            found |= plane != 0
        return _padded(found, *self.image_size)[0]

    def without(self, pixels: Tensor) -> PackedMasks:
        """Copy the masks without the pixels where a bool tensor (H, W) is True."""
        _, h, w = self.planes.shape
        planes = self.planes * ~pixels[:h, :w]  # several times as fast as `masked_fill`
        return PackedMasks(planes, len(self), self.image_size)

    def get_bounding_boxes(self) -> Boxes:
        """Return tight boxes (N, 4), upper ends exclusive as in Detectron2; zeros if empty."""
        return Boxes(boxes_of_projections(self._projected(1), self._projected(2)))

    def sample(self, points: Tensor, of: Tensor | None = None) -> Tensor:
        """Interpolate values at points bilinearly, without unpacking the masks.

        They are those of ``grid_sample`` with ``align_corners=False`` and zeros around the image.

        Args:
            points: (x, y) in [0, 1]; (P, 2) for all masks, or (N, P, 2) with different points for
                each mask.
            of: indices (N,) of the masks to take instead of all.

        Returns:
            (N, P), float32, in [0, 1].
        """
        points = points.float()
        if of is not None:
            of = of.to(self.device)
        elif points.ndim == 3:
            of = torch.arange(len(self), device=self.device)
        # The arithmetic is that of grid_sample, so that predictions and targets meet at the pixel.
        axes = [
            _neighbours(((2 * points[..., axis] - 1) + 1) * (0.5 * size) - 0.5, stored)
            for axis, size, stored in zip(
                (1, 0), self.image_size, self.planes.shape[1:], strict=True
            )
        ]
        # All four corners in one go: on a GPU, each further operation waits for the CPU.
        (rows, row_weights), (columns, column_weights) = (
            (at.unsqueeze(dim), weights.unsqueeze(dim))
            for (at, weights), dim in zip(axes, (-2, -3), strict=True)
        )
        pixels = (rows * self.planes.shape[2] + columns).flatten(-3)  # (4P,) or (N, 4P)
        weights = (row_weights * column_weights).flatten(-3, -2)  # (4, P) or (N, 4, P)
        corners = self._values(pixels, of).float().unflatten(-1, weights.shape[-2:])
        return corners.mul_(weights).sum(-2)

    def _values(self, pixels: Tensor, of: Tensor | None) -> Tensor:
        """Read bits (N, P), as 0 and 1, of masks ``of``, or all, at flat indices (P,) or (N, P)."""
        if pixels.ndim == 1:
            values = self.planes.flatten(1).index_select(1, pixels)  # (B, P)
            if of is None:
                return _unpacked(values, len(self))
            values = values[of // 8]
        else:
            assert of is not None
            _, h, w = self.planes.shape
            pixels = pixels + (of // 8 * (h * w))[:, None]
            # several times as fast as indexing on the CPU
            values = self.planes.flatten().index_select(0, pixels.flatten()).view(pixels.shape)
        return (values >> (of % 8).to(torch.uint8)[:, None]) & 1

    def _indices(self, item: int | slice | Sequence[int] | Tensor) -> Tensor:
        """Return what ``item`` selects, as indices (M,)."""
        everything = torch.arange(len(self), device=self.device)
        if isinstance(item, Tensor):
            item = item.to(self.device)
        elif not isinstance(item, int | slice):
            item = torch.as_tensor(item, device=self.device)
            item = item if len(item) else item.long()  # an empty list becomes floats
        return everything[item].reshape(-1)

    def _projected(self, dim: int) -> Tensor:
        """Find columns (dim 1) or rows (dim 2) that have a pixel: bool (N, w) or (N, h)."""
        values = self.planes
        while values.shape[dim] > 1:  # halves on halves, as there is no "or" along a dimension
            size = values.shape[dim]
            half = size // 2
            folded = values.narrow(dim, 0, half) | values.narrow(dim, half, half)
            if size % 2:
                folded.narrow(dim, 0, 1).bitwise_or_(values.narrow(dim, size - 1, 1))
            values = folded
        return _unpacked(values.squeeze(dim), len(self)).bool()


def boxes_of_projections(columns: Tensor, rows: Tensor) -> Tensor:
    """Return tight boxes (N, 4) of masks, (x0, y0, x1, y1), upper ends exclusive; zeros if empty.

    Args:
        columns: bool (N, W), where each mask has a pixel.
        rows: bool (N, H), likewise.
    """
    ends = []
    for hit in (columns, rows):
        positions = torch.arange(hit.shape[1], device=hit.device)
        first = positions.where(hit, hit.shape[1]).amin(1)
        ends.append((first, positions.where(hit, -1).amax(1) + 1))
    (x0, x1), (y0, y1) = ends
    boxes = torch.stack((x0, y0, x1, y1), dim=1).float()
    return boxes.where((x1 > x0)[:, None], 0.0)


def _neighbours(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return pixels before and after positions (..., P) on an axis, and their weights: (..., 2, P).

    A pixel that does not exist has the weight 0, and the index of one that exists.
    """
    before = positions.floor()
    pixels = torch.stack((before, before + 1), dim=-2)
    existing = pixels.clamp(0, size - 1)
    weights = 1 - (positions.unsqueeze(-2) - pixels).abs_()
    return existing.long(), weights.mul_(existing == pixels)


def _merge_columns(planes: list[np.ndarray], columns: np.ndarray | None) -> None:
    """Merge masks stored by columns (W, H), as rasterised polygons are, into the last plane.

    Transposing eight masks at a time is faster than one by one.
    """
    if columns is not None:
        planes[-1] |= columns.T


def _pack(count: int, size: Size, device: torch.device, rows: Callable[[slice], Tensor]) -> Tensor:
    """Pack ``count`` masks into planes; ``rows`` gives those of a slice as 0 and 1, (n, h, w)."""
    planes = torch.zeros((-(-count // 8), *size), dtype=torch.uint8, device=device)
    for bit in range(min(count, 8)):
        part = rows(slice(bit, count, 8)).to(torch.uint8)
        planes[: len(part)] |= part << bit
    return planes


def _unpacked(values: Tensor, count: int) -> Tensor:
    """Unpack the first ``count`` of the bits of (B, ...), as 0 and 1 (count, ...)."""
    shifts = torch.arange(8, dtype=torch.uint8, device=values.device)
    bits = (values[:, None] >> shifts.view(1, 8, *(1,) * (values.ndim - 1))) & 1
    return bits.flatten(0, 1)[:count]


def _padded(masks: Tensor, height: int, width: int) -> Tensor:
    return F.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1]))
