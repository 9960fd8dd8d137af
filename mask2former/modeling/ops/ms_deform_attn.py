"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3).

Shapes:
    B: batch, S: sum of H_l * W_l over all levels, Q: queries, H: heads, D: channels of a head,
    L: levels, P: sampling points a level and head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum values sampled bilinearly around each query, weighted by its attention.

    A location outside the map contributes zeros, as if the map were padded with zeros.

    Args:
        value: (B, S, H, D), the levels' maps flattened row by row, one level after the other.
        spatial_shapes: (height, width) of each of the L levels.
        sampling_locations: (B, Q, H, L, P, 2), (x, y) normalised such that (0, 0) is the top left
            corner of the top left pixel and (1, 1) the bottom right corner of the last one.
        attention_weights: (B, Q, H, L, P), usually a softmax over L * P.

    Returns:
        (B, Q, H * D).

    Raises:
        ValueError: if the shapes do not fit together; the message names them.
    """
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    B, _, H, D = value.shape
    Q, P = sampling_locations.shape[1], sampling_locations.shape[4]
    levels = value.split([h * w for h, w in spatial_shapes], dim=1)
    # grid_sample wants (x, y) in [-1, 1]
    grids = (
        (2 * sampling_locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    )  # (L, B*H, Q, P, 2)
    weights = attention_weights.permute(3, 0, 2, 1, 4).reshape(-1, B * H, 1, Q, P)
    output = value.new_zeros(B * H, D, Q)
    # One level at a time: the samples of a level, (B*H, D, Q, P), are the largest tensor here.
    for (height, width), level, grid, weight in zip(
        spatial_shapes, levels, grids, weights, strict=True
    ):
        maps = level.permute(0, 2, 3, 1).reshape(B * H, D, height, width)
        samples = F.grid_sample(
            maps, grid.to(maps.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
        )
        output = output + (samples * weight).sum(-1)
    return output.view(B, H * D, Q).transpose(1, 2)


def _check_shapes(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    if value.dim() != 4:
        raise ValueError(f"value must be (B, S, H, D), got {tuple(value.shape)}")
    B, S, H, _ = value.shape
    if sum(h * w for h, w in spatial_shapes) != S:
        raise ValueError(
            f"spatial_shapes {list(spatial_shapes)} cover {sum(h * w for h, w in spatial_shapes)} "
            f"positions, but value {tuple(value.shape)} has {S}"
        )
    shape = sampling_locations.shape
    if len(shape) != 6 or shape[0] != B or shape[2] != H or shape[3] != len(spatial_shapes):
        raise ValueError(
            f"sampling_locations must be (B={B}, Q, H={H}, L={len(spatial_shapes)}, P, 2), "
            f"got {tuple(shape)}"
        )
    if attention_weights.shape != shape[:-1]:
        raise ValueError(
            f"attention_weights must be {tuple(shape[:-1])} like sampling_locations, "
            f"got {tuple(attention_weights.shape)}"
        )


def reference_points(spatial_shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Centres of all pixels of all levels, normalised to (0, 1): (S, 2) as (x, y)."""
    points = []
    for height, width in spatial_shapes:
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(points)
