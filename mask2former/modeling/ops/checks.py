"""Argument checks of the operator, with the same texts as ``csrc/checks.h``.

Every implementation checks its arguments, those in Python (fake mode included) with these functions
and the compiled ones with their C++ twins, so that a mistake reads the same everywhere.
``tests/modeling/ops/test_bad_input.py`` holds both to one table.

A check of ``requires_grad`` on the metadata is not needed: PyTorch allows gradients for floating
point only, and metadata must be int64.

Shapes:
    B: batch, S: sum of H_l * W_l over all levels, Q: queries, H: heads, D: channels of a head,
    L: levels, P: sampling points a level and head.
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
) -> None:
    """Check everything that can be known without reading data: ranks, shapes, dtypes, devices.

    Raises:
        ValueError: naming the argument, what it should be and what it is.
    """
    if value.dim() != 4:
        raise ValueError(f"value must be (B, S, H, D), got {tuple(value.shape)}")
    check_spatial_shapes(spatial_shapes)
    B, _, H, _ = value.shape
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
    _check_dtypes_and_devices(
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights
    )


def check_spatial_shapes(spatial_shapes: Tensor) -> None:
    """Check that spatial_shapes is (L, 2).

    Raises:
        ValueError: if it is not.
    """
    if spatial_shapes.dim() != 2 or spatial_shapes.shape[1] != 2:
        raise ValueError(f"spatial_shapes must be (L, 2), got {tuple(spatial_shapes.shape)}")


def _check_dtypes_and_devices(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    if value.dtype not in VALUE_DTYPES:
        raise ValueError(
            f"value must be float32, float64, bfloat16 or float16, got {_name(value.dtype)}"
        )
    # The coordinates of half-precision values may be float32: that is what autocast gives.
    allowed = (value.dtype, torch.float32) if value.dtype in HALF_DTYPES else (value.dtype,)
    _check_like("sampling_locations", sampling_locations, "value", value, allowed)
    _check_like(
        "attention_weights",
        attention_weights,
        "sampling_locations",
        sampling_locations,
        (sampling_locations.dtype,),
    )
    for name, tensor in (
        ("spatial_shapes", spatial_shapes),
        ("level_start_index", level_start_index),
    ):
        if tensor.dtype != torch.int64:
            raise ValueError(f"{name} must be int64, got {_name(tensor.dtype)}")
        if tensor.device.type != "cpu" and tensor.device != value.device:
            raise ValueError(
                f"value is on {value.device}, but {name} is on {tensor.device}; "
                f"it must be on the CPU or where value is"
            )


def check_metadata(
    value: Tensor,
    spatial_shapes: Sequence[Sequence[int]],
    level_start_index: Sequence[int] | None = None,
) -> None:
    """Check the data of the metadata, given as Python numbers, against value (B, S, H, D).

    Raises:
        ValueError: if a size is no integer or smaller than 1, if the levels do not add up to S or
            if ``level_start_index`` does not number their first positions.
    """
    levels = [list(size) for size in spatial_shapes]
    if any(len(level) != 2 or float in map(type, level) for level in levels):
        raise ValueError(f"spatial_shapes must be integers (height, width), got {levels}")
    if any(size < 1 for level in levels for size in level):
        raise ValueError(f"spatial_shapes must be 1 or larger, got {levels}")
    starts, total = [], 0
    for height, width in levels:
        starts.append(total)
        total += height * width
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


def check_grad_output(grad_output: Tensor, value: Tensor, sampling_locations: Tensor) -> None:
    """Check the gradient of the output, (B, Q, H * D), against arguments that have been checked.

    Raises:
        ValueError: if shape, dtype or device are not those of the output.
    """
    B, _, H, D = value.shape
    Q = sampling_locations.shape[1]
    if tuple(grad_output.shape) != (B, Q, H * D):
        raise ValueError(
            f"grad_output must be (B={B}, Q={Q}, H*D={H * D}), got {tuple(grad_output.shape)}"
        )
    _check_like("grad_output", grad_output, "value", value, (value.dtype,))


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
