"""The operator in plain PyTorch: the oracle of the others, and what serves devices without one.

Shapes:
    B: batch, S: sum of H_l * W_l over all levels, Q: queries, H: heads, D: channels of a head,
    L: levels, P: sampling points a level and head.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import HALF_DTYPES, check_arguments, check_grad_output, check_metadata

# the enumerations of aten::grid_sampler_2d_backward
BILINEAR, ZEROS = 0, 0


def ms_deform_attn_pytorch(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """``mask2former::ms_deform_attn`` made of PyTorch's operations, all of them differentiable.

    The arguments are those of `ms_deform_attn`, with `level_start_index`, the first position of
    each level. Half precision is computed in float32 and rounded once, at the end.

    Raises:
        ValueError: if the arguments do not fit together; the message names them.
    """
    check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    sizes = spatial_shapes.tolist()
    check_metadata(value, sizes, level_start_index.tolist())
    B, _, H, D = value.shape
    Q = sampling_locations.shape[1]
    output = _accumulator(value).new_zeros(B * H, D, Q)
    if output.numel() and attention_weights.numel():
        # One level at a time: its samples, (B*H, D, Q, P), are the largest tensor here.
        for maps, grid, weight in _levels(value, sizes, sampling_locations, attention_weights):
            output = output + (_sample(maps, grid) * weight).sum(-1)
    return output.view(B, H * D, Q).transpose(1, 2).to(value.dtype).contiguous()


def ms_deform_attn_backward_pytorch(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """``mask2former::ms_deform_attn_backward``: the gradients of `ms_deform_attn_pytorch`.

    Written out, since autograd does not record inside of an operator's own kernel.

    Args:
        grad_output: (B, Q, H * D).
        value: as given to the forward, as are all that follow.

    Returns:
        The gradients with respect to value, sampling_locations and attention_weights.

    Raises:
        ValueError: if the arguments do not fit together; the message names them.
    """
    check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    check_grad_output(grad_output, value, sampling_locations)
    sizes = spatial_shapes.tolist()
    check_metadata(value, sizes, level_start_index.tolist())
    B, _, H, D = value.shape
    _, Q, _, _, P, _ = sampling_locations.shape
    if not grad_output.numel() or not attention_weights.numel():
        return (
            torch.zeros_like(value, memory_format=torch.contiguous_format),
            torch.zeros_like(sampling_locations, memory_format=torch.contiguous_format),
            torch.zeros_like(attention_weights, memory_format=torch.contiguous_format),
        )
    grad = _accumulator(grad_output).transpose(1, 2).reshape(B * H, D, Q, 1)
    grad_maps, grad_grids, grad_weights = [], [], []
    for (height, width), (maps, grid, weight) in zip(
        sizes, _levels(value, sizes, sampling_locations, attention_weights), strict=True
    ):
        grad_weights.append((_sample(maps, grid) * grad).sum(1))  # (B*H, Q, P)
        grad_map, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            weight * grad, maps, grid, BILINEAR, ZEROS, False, [True, True]
        )
        grad_maps.append(grad_map.view(B, H, D, height * width))
        # The grid is 2 * location - 1, or outside, where its gradient is 0.
        grad_grids.append(2 * grad_grid)
    grad_value = torch.cat(grad_maps, dim=3).permute(0, 3, 1, 2)  # (B, S, H, D)
    grad_locations = torch.stack(grad_grids, dim=2).view(B, H, Q, -1, P, 2).transpose(1, 2)
    grad_attention = torch.stack(grad_weights, dim=2).view(B, H, Q, -1, P).transpose(1, 2)
    return (
        grad_value.to(value.dtype).contiguous(),
        grad_locations.to(sampling_locations.dtype).contiguous(),
        grad_attention.to(attention_weights.dtype).contiguous(),
    )


# A place in grid_sample's coordinates, where a map is [-1, 1], that no bilinear sample of a map
# of any size reaches: outside by a whole map.
OUTSIDE = 3.0


def _levels(
    value: Tensor, sizes: list[list[int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each level as grid_sample takes it.

    Yields:
        Maps (B*H, D, H_l, W_l), grid (B*H, Q, P, 2) in [-1, 1] and weights (B*H, 1, Q, P).
    """
    value = _accumulator(value)
    locations = _accumulator(sampling_locations).permute(3, 0, 2, 1, 4, 5)  # (L, B, H, Q, P, 2)
    weights = _accumulator(attention_weights).permute(3, 0, 2, 1, 4)  # (L, B, H, Q, P)
    parts = value.split([height * width for height, width in sizes], dim=1)
    for (height, width), part, location, weight in zip(
        sizes, parts, locations.flatten(1, 2), weights.flatten(1, 2), strict=True
    ):
        maps = part.permute(0, 2, 3, 1).reshape(-1, part.shape[3], height, width)
        size = location.new_tensor([width, height])
        pixel = location * size - 0.5
        # False for NaN, too. On the border itself all corners have no weight but a slope.
        inside = ((pixel > -1) & (pixel < size)).all(-1, keepdim=True)
        yield maps, torch.where(inside, 2 * location - 1, OUTSIDE), weight[:, None]


def _sample(maps: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(
        maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )  # (B*H, D, Q, P)


def _accumulator(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALF_DTYPES else tensor
