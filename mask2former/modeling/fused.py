"""Layers in the form that CPUs are fast with.

oneDNN computes several in one pass while no gradients are recorded. Everywhere else, and in
programs that are traced, compiled or exported, the plain layers run. Both forms give the same up to
rounding.

Shapes:
    B: batch, C: channels, H, W: height and width of a map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ops.cpu_kernels import cpu_kernel

Activation = Literal["none", "relu", "gelu"]

_OPERATORS: Any = torch.ops.mkldnn  # empty in builds without oneDNN
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
# The fastest on a server processor; its caches hold tens of MB, and each part has some cost.
_PART_BYTES = 24 << 20


def linear(layer: nn.Linear, x: Tensor, activation: Activation = "none") -> Tensor:
    """Apply a linear layer to (..., C), and then an activation."""
    return linear_of(x, layer.weight, layer.bias, activation)


def linear_of(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none"
) -> Tensor:
    """Do the work of `linear` with these parameters."""
    dtype = _fused_dtype(x, weight, bias)
    if dtype is None:
        y = F.linear(x, weight, bias)
        return y if activation == "none" else _ACTIVATIONS[activation](y)
    bias = None if bias is None else bias.to(dtype)
    return _OPERATORS._linear_pointwise(x.to(dtype), weight.to(dtype), bias, activation, [], "none")


def row_parts(x: Tensor, channels: int) -> list[slice] | None:
    """Divide the rows of x (B, ..., C) so that what is computed from a part stays in the caches.

    Args:
        x: each image has as many rows as elements without the last dimension.
        channels: the most that is computed from a row at a time, in elements.

    Returns:
        The parts of an image; None where all rows at once are as good: on a GPU, in programs that
        are traced, compiled or exported, while gradients are recorded, and for few rows.
    """
    dtype = None if torch.is_grad_enabled() else _fused_dtype(x)
    if dtype is None or x.numel() == 0:
        return None
    rows = x[0].numel() // x.shape[-1]
    count = min(rows, -(-rows * len(x) * channels * dtype.itemsize // _PART_BYTES))
    step = -(-rows // count)
    return [slice(i, i + step) for i in range(0, rows, step)] if count > 1 else None


def residual_norm(
    norm: nn.LayerNorm, x: Tensor, branch: Tensor, out: Tensor | None = None
) -> Tensor:
    """Normalise the sum of x (B, S, C) and a branch.

    Args:
        norm: over C.
        x: (B, S, C).
        branch: (B, S, C).
        out: where the result is to be written, perhaps x itself; without recorded gradients only.
    """
    parameters = norm.weight, norm.bias
    kernel = cpu_kernel("residual_norm", x, branch, *parameters)
    if (
        kernel is not None
        and {parameter.dtype for parameter in parameters} == {torch.float32}
        and x.dtype in (torch.float32, branch.dtype)
        and torch.float64 not in (x.dtype, branch.dtype)
        and x.dim() == 3
        and x.stride()[1:] == (x.shape[2], 1)
        and not (norm._forward_hooks or norm._forward_pre_hooks)
    ):
        out = torch.empty_like(x) if out is None else out
        return kernel(x, branch, *parameters, norm.eps, out)
    y = norm(x + branch)
    return y if out is None else out.copy_(y)


def convolution(
    layer: nn.Conv2d,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    added: Tensor | None = None,
    overwrite: bool = False,
    relu: bool = False,
) -> Tensor:
    """Convolve (B, C, H, W), then add a map of the result's size, then apply a ReLU.

    Args:
        layer: says how to convolve; its own parameters are not used.
        x: the map.
        weight: of the convolution.
        bias: likewise.
        added: added to the result.
        overwrite: whether the result may be written over `added`.
        relu: whether there is a ReLU.
    """
    dtype = _fused_dtype(x, weight, bias, added)
    if added is not None and not (
        layer.groups == 1 and _is_channels_last(x) and _is_channels_last(added)
    ):
        dtype = None  # the operator would add in a pass of its own, and not in bfloat16
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros" or 0 in x.shape:
        dtype = None
    if dtype is None:
        y = layer._conv_forward(x, weight, bias)
        if added is not None:
            y += added  # in place, as the layers that this replaces
        return F.relu_(y) if relu else y
    bias = None if bias is None else bias.to(dtype)
    x, weight = x.to(dtype), weight.to(dtype)
    how = layer.padding, layer.stride, layer.dilation, layer.groups
    if added is None:
        attribute = "relu" if relu else "none"
        return _OPERATORS._convolution_pointwise(x, weight, bias, *how, attribute, [], "")
    other = added.to(dtype)
    after: tuple[Any, ...] = ("add", None, "relu" if relu else None, [], None)
    if overwrite or other is not added:
        return _OPERATORS._convolution_pointwise_.binary(other, x, weight, bias, *how, *after)
    return _OPERATORS._convolution_pointwise.binary(x, other, weight, bias, *how, *after)


def _is_channels_last(x: Tensor) -> bool:
    """Tell whether PyTorch takes a map for one, of which a single pixel has the strides of both."""
    return x.is_contiguous(memory_format=torch.channels_last) and x.stride(3) == x.shape[1]


def _fused_dtype(*tensors: Tensor | None) -> torch.dtype | None:
    """Return the type to compute in if oneDNN can serve the tensors, else None."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.backends.mkldnn.enabled:
        return None
    given = [tensor for tensor in tensors if tensor is not None]
    for tensor in given:
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type != "cpu":
            return None
        if tensor.requires_grad and torch.is_grad_enabled():
            return None
    types = {tensor.dtype for tensor in given}
    if torch.is_autocast_enabled("cpu") and torch.float64 not in types:
        types = {torch.get_autocast_dtype("cpu")}
    (dtype, *others) = types
    if others or not _serves(dtype):
        return None
    return dtype


def _serves(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(_OPERATORS, "_linear_pointwise"):
        return False
    if dtype is torch.bfloat16:
        return bool(_OPERATORS._is_mkldnn_bf16_supported())
    return dtype is torch.float32
