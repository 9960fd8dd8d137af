"""Argument checks of the operator: the one home of their texts.

Every implementation comes here, fake mode included, so that a mistake reads the same everywhere.
The compiled kernels only find out whether their arguments fit (``csrc/checks.cpp``); if they do
not, they call `explain_bad_arguments`.

``requires_grad`` on the metadata needs no check: PyTorch allows gradients for floating point only,
and metadata must be int64.

Shapes:
    B: batch, S: sum of H_l * W_l over all levels, Q: queries, H: heads, D: channels per head,
    L: levels, P: sampling points per level and head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HALF_DTYPES = (torch.bfloat16, torch.float16)
VALUE_DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)


def check_arguments(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    grad_output: Tensor | None = None,
) -> None:
    """Check everything that can be known without reading data: ranks, shapes, dtypes, devices.

    Args:
        value: and the next four, the arguments of the operator.
        grad_output: the gradient of its output, if there is one.

    Raises:
        ValueError: an argument does not fit; the message names it, and says what it should be and
            what it is.
    """
    if value.dim() != 4:
        raise ValueError(f"value must be (B, S, H, D), got {tuple(value.shape)}")
    check_spatial_shapes(spatial_shapes)
    B, _, H, D = value.shape
    L = spatial_shapes.shape[0]
    if level_start_index.dim() != 1 or level_start_index.shape[0] != L:
        raise ValueError(
            f"level_start_index must be (L={L},), got {tuple(level_start_index.shape)}"
        )
    shape = sampling_locations.shape
    if len(shape) != 6 or (shape[0], shape[2], shape[3], shape[5]) != (B, H, L, 2):
        raise ValueError(
            f"sampling_locations must be (B={B}, Q, H={H}, L={L}, P, 2), got {tuple(shape)}"
        )
    if attention_weights.shape != shape[:-1]:
        raise ValueError(
            f"attention_weights must be {tuple(shape[:-1])} like sampling_locations, "
            f"got {tuple(attention_weights.shape)}"
        )
    if value.dtype not in VALUE_DTYPES:
        raise ValueError(
            f"value must be float32, float64, bfloat16 or float16, got {_name(value.dtype)}"
        )
    # The coordinates of half-precision values may be float32: that is what autocast gives.
    allowed = (value.dtype, torch.float32) if value.dtype in HALF_DTYPES else (value.dtype,)
    locations = ("sampling_locations", sampling_locations)
    _check_like(*locations, "value", value, allowed)
    _check_like("attention_weights", attention_weights, *locations, (sampling_locations.dtype,))
    _check_metadata_tensor("spatial_shapes", spatial_shapes, value)
    _check_metadata_tensor("level_start_index", level_start_index, value)
    if grad_output is not None:
        Q = shape[1]
        if tuple(grad_output.shape) != (B, Q, H * D):
            raise ValueError(
                f"grad_output must be (B={B}, Q={Q}, H*D={H * D}), got {tuple(grad_output.shape)}"
            )
        _check_like("grad_output", grad_output, "value", value, (value.dtype,))


def check_spatial_shapes(spatial_shapes: Tensor) -> None:
    """Check that spatial_shapes is (L, 2), and raise `ValueError` if it is not."""
    if spatial_shapes.dim() != 2 or spatial_shapes.shape[1] != 2:
        raise ValueError(f"spatial_shapes must be (L, 2), got {tuple(spatial_shapes.shape)}")


def check_all(*arguments: Tensor, grad_output: Tensor | None = None) -> None:
    """Check as `check_arguments` does, and the data of metadata that is on the CPU.

    Data on a GPU is not read, because the CPU would have to wait for it.
    """
    check_arguments(*arguments, grad_output=grad_output)
    value, spatial_shapes, level_start_index = arguments[:3]
    if spatial_shapes.is_cpu:
        starts = level_start_index.tolist() if level_start_index.is_cpu else None
        check_metadata(value, spatial_shapes.tolist(), starts)


def explain_bad_arguments(*arguments: Tensor) -> None:
    """Raise the `ValueError` for arguments that the compiled kernels refused.

    Args:
        arguments: the five of the operator, and the gradient of its output or None.
    """
    *forward, grad_output = arguments
    check_all(*forward, grad_output=grad_output)


def check_metadata(
    value: Tensor,
    spatial_shapes: Sequence[Sequence[int]],
    level_start_index: Sequence[int] | None = None,
) -> None:
    """Check the data of the metadata, given as Python numbers, against value (B, S, H, D).

    Raises:
        ValueError: a size is not an integer or is smaller than 1, the levels do not add up to S, or
            ``level_start_index`` does not number their first positions.
    """
    levels = [list(size) for size in spatial_shapes]
    if any(len(level) != 2 or float in map(type, level) for level in levels):
        raise ValueError(f"spatial_shapes must be integers (height, width), got {levels}")
    if any(size < 1 for level in levels for size in level):
        raise ValueError(f"spatial_shapes must be 1 or larger, got {levels}")
    starts, total = level_starts(levels)
    if total != value.shape[1]:
        raise ValueError(
            f"spatial_shapes {levels} cover {total} positions, "
            f"but value {tuple(value.shape)} has {value.shape[1]}"
        )
    if level_start_index is not None and list(level_start_index) != starts:
        raise ValueError(
            f"level_start_index must be {starts} for spatial_shapes {levels}, "
            f"got {list(level_start_index)}"
        )


def level_starts(spatial_shapes: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    """Return the first position of each level, and the number of all positions."""
    starts, total = [], 0
    for height, width in spatial_shapes:
        starts.append(total)
        total = total + height * width  # not in place: sizes are tensors in tracing
    return starts, total


def _check_metadata_tensor(name: str, tensor: Tensor, value: Tensor) -> None:
    if tensor.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {_name(tensor.dtype)}")
    if tensor.device.type != "cpu" and tensor.device != value.device:
        raise ValueError(
            f"value is on {value.device}, but {name} is on {tensor.device}; "
            f"it must be on the CPU or where value is"
        )


def _check_like(
    name: str, tensor: Tensor, other_name: str, other: Tensor, allowed: tuple[torch.dtype, ...]
) -> None:
    if tensor.dtype not in allowed or tensor.device != other.device:
        expected = " or ".join(_name(dtype) for dtype in allowed)
        raise ValueError(
            f"{other_name} is {_name(other.dtype)} on {other.device}, "
            f"but {name} is {_name(tensor.dtype)} on {tensor.device}; "
            f"it must be {expected} on {other.device}"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
