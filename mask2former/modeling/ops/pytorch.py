"""The operator in plain PyTorch: the oracle of the others, for devices that these do not serve.

Shapes:
    B: batch, S: sum of H_l * W_l over all levels, Q: queries, H: heads, D: channels per head,
    L: levels, P: sampling points per level and head.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import HALF_DTYPES, check_arguments, check_metadata

# the enumerations of aten::grid_sampler_2d_backward
BILINEAR, ZEROS = 0, 0


def ms_deform_attn_pytorch(*arguments: Tensor) -> Tensor:
    """Compute ``mask2former::ms_deform_attn`` with operations that PyTorch can differentiate.

    Half precision is computed in float32 and rounded once, at the end.

    Args:
        arguments: value (B, S, H, D), spatial_shapes (L, 2), level_start_index (L,),
            sampling_locations (B, Q, H, L, P, 2) and attention_weights (B, Q, H, L, P).

    Returns:
        (B, Q, H * D).

    Raises:
        ValueError: the arguments do not fit together; the message names them.
    """
    value, _, _, sampling_locations, attention_weights = arguments
    sizes = _checked_sizes(*arguments)
    B, _, H, D = value.shape
    Q = sampling_locations.shape[1]
    output = _accumulator(value).new_zeros(B * H, D, Q)
    if output.numel() and attention_weights.numel():
        # One level at a time: its samples, (B*H, D, Q, P), are the largest tensor here.
        for maps, grid, weight in _levels(value, sizes, sampling_locations, attention_weights):
            output = output + (_sample(maps, grid) * weight).sum(-1)
    return output.view(B, H * D, Q).transpose(1, 2).to(value.dtype).contiguous()


def ms_deform_attn_backward_pytorch(
    grad_output: Tensor, *arguments: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``mask2former::ms_deform_attn_backward``, the gradients of `ms_deform_attn_pytorch`.

    They are written out because autograd does not record inside an operator's own kernel.

    Args:
        grad_output: (B, Q, H * D).
        arguments: as given to the forward.

    Returns:
        The gradients with respect to value, sampling_locations and attention_weights.

    Raises:
        ValueError: the arguments do not fit together; the message names them.
    """
    value, _, _, sampling_locations, attention_weights = arguments
    sizes = _checked_sizes(*arguments, grad_output=grad_output)
    B, _, H, D = value.shape
    _, Q, _, _, P, _ = sampling_locations.shape
    if not grad_output.numel() or not attention_weights.numel():
        return zero_gradients(*arguments)
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


def zero_gradients(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the operator where there is nothing to sample."""
    value, _, _, locations, weights = (x.new_zeros(x.shape) for x in arguments)
    return value, locations, weights


def _checked_sizes(*arguments: Tensor, grad_output: Tensor | None = None) -> list[list[int]]:
    """Check the arguments, and return (height, width) of each level."""
    check_arguments(*arguments, grad_output=grad_output)
    value, spatial_shapes, level_start_index, _, _ = arguments
    sizes = spatial_shapes.tolist()
    check_metadata(value, sizes, level_start_index.tolist())
    return sizes


# A place in grid_sample's coordinates, in which a map is [-1, 1]. It lies so far outside that a
# bilinear sample touches no pixel, whatever the size of the map.
OUTSIDE = 3.0


def _levels(
    value: Tensor, sizes: list[list[int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Bring each level into the form that grid_sample takes.

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


def softmax_of_few(x: Tensor) -> Tensor:
    """Compute the softmax over the last dimension, which is short, of a tensor of float32.

    On a CPU, PyTorch is four times faster over the first dimension of a matrix than over a last one
    that does not fill its vectors.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return x.softmax(-1)
    rows = x.reshape(-1, x.shape[-1])
    return rows.T.contiguous().softmax(0).T.contiguous().view(x.shape)
