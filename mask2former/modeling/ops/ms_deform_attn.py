"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3).

Shapes:
    B: batch, S: sum of H_l * W_l over all levels, Q: queries, H: heads, D: channels per head,
    L: levels, P: sampling points per level and head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...utils.tensor_cache import cached_tensors, tensor_of
from . import library
from .checks import check_metadata, check_spatial_shapes, level_starts
from .cpu_kernels import cpu_kernel
from .pytorch import softmax_of_few
from .traceable import traced_form

CPU = torch.device("cpu")


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum values sampled bilinearly around each query, weighted by its attention.

    A location outside the map contributes zeros, as if the map were padded with zeros. A location
    that is more than one pixel outside, or NaN, contributes nothing and gets no gradient.

    As a function of the location, a sample has a kink at each pixel centre, where its derivative
    has two values. Exactly there, the gradient is that towards larger x and y: by x, the pixel to
    the right minus the pixel itself. Implementations round `location * size - 0.5` differently, so
    at a location that is not a binary fraction one may see the centre and another the place just
    before it, with the other of the two gradients.

    The dtypes are float32, float64, bfloat16 or float16, the same for all three tensors;
    locations and weights may both be float32 where the value is bfloat16 or float16, which is what
    autocast makes of them.

    Args:
        value: (B, S, H, D), the levels' maps flattened row by row, one level after the other.
        spatial_shapes: (height, width) of each of the L levels, as numbers or as an int64 tensor
            (L, 2) on the CPU or on value's device. Sizes in a tensor that is not on the CPU are
            not checked.
        sampling_locations: (B, Q, H, L, P, 2), (x, y) normalised such that (0, 0) is the top left
            corner of the top left pixel and (1, 1) the bottom right corner of the last one.
        attention_weights: (B, Q, H, L, P), usually a softmax over L * P.

    Returns:
        (B, Q, H * D).

    Raises:
        ValueError: shapes, dtypes or devices do not fit together; the message names them.
    """
    form = traced_form()
    if form is not None and not isinstance(spatial_shapes, Tensor):
        return form(value, spatial_shapes, sampling_locations, attention_weights)
    sizes, starts = _metadata(value, spatial_shapes)
    return torch.ops.mask2former.ms_deform_attn(
        value, sizes, starts, sampling_locations, attention_weights
    )


def ms_deform_attn_projected(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], references: Tensor, projected: Tensor
) -> Tensor:
    """Attend around each reference point, by what one linear layer gives for each query.

    Args:
        value: (B, S, H, D), as for `ms_deform_attn`.
        spatial_shapes: (height, width) of each of the L levels.
        references: float32 (Q, 2), (x, y) in (0, 1).
        projected: (B, Q, H * L * P * 3): the offsets (H, L, P, 2) of sampling locations from the
            reference point as (x, y), in parts of a level's size, then the logits (H, L, P) of
            attention weights, which are a softmax over L * P.

    Returns:
        (B, Q, H * D).
    """
    kernel = cpu_kernel("ms_deform_attn_projected", value, references, projected)
    if kernel is not None and torch.float64 not in (value.dtype, projected.dtype):
        return kernel(value, *_metadata(value, spatial_shapes), references, projected)
    B, Q, _ = projected.shape
    H, L, logits = value.shape[2], len(spatial_shapes), projected.shape[-1] // 3
    P = logits // (H * L)
    offsets, weights = projected.split((2 * logits, logits), dim=-1)
    # Positions and the softmax stay in float32 under autocast: bfloat16 could not tell
    # neighbouring pixels of a large map apart.
    locations = references[:, None, None, None] + offsets.view(B, Q, H, L, P, 2).float()
    weights = softmax_of_few(weights.unflatten(-1, (H, L * P)).float()).view(B, Q, H, L, P)
    return ms_deform_attn(value, spatial_shapes, locations, weights)


def _metadata(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]] | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the operator's arguments spatial_shapes (L, 2) and level_start_index (L,)."""
    device = value.device if library.wants_sizes_on_device(value.device.type) else CPU
    if isinstance(spatial_shapes, Tensor):
        check_spatial_shapes(spatial_shapes)
        areas = spatial_shapes[:, 0] * spatial_shapes[:, 1]
        return spatial_shapes, areas.cumsum(0) - areas
    if value.dim() == 4:  # the operator says if it is not
        check_metadata(value, spatial_shapes)
    return _tensors(tuple((h, w) for h, w in spatial_shapes), device, like=value)


@cached_tensors
def _tensors(
    spatial_shapes: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    starts, _ = level_starts(spatial_shapes)
    sizes = [number for size in spatial_shapes for number in size]
    return (
        tensor_of(sizes, torch.int64, device).view(-1, 2),
        tensor_of(starts, torch.int64, device),
    )


def reference_points(spatial_shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Return the centres of all pixels of all levels, normalised to (0, 1): (S, 2) as (x, y)."""
    points = []
    for height, width in spatial_shapes:
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(points)
