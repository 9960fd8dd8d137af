"""Caching small constant tensors between calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def cached_tensors(function: Callable[..., T]) -> Callable[..., T]:
    """Cache the tensors that `function` makes.

    The arguments of `function`, such as sizes and a device, must be hashable. Without a cache,
    making the tensors in each call would let the CPU wait for a GPU. The result of this decorator
    takes one more argument, `like`, a tensor of the computation: if that is a fake tensor or a
    compiler traces, the tensors are valid only there and are not cached.
    """

    @functools.lru_cache(maxsize=256)
    def kept(*args: Any) -> T:
        with torch.inference_mode(False):  # a tensor of inference mode cannot be used in training
            return function(*args)

    @functools.wraps(function)
    def wrapper(*args: Any, like: Tensor) -> T:
        keep = type(like) is Tensor and not torch.compiler.is_compiling()
        return kept(*args) if keep else function(*args)

    return wrapper


def tensor_of(numbers: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make a tensor (N,) of sizes. Unlike `torch.tensor`, it keeps sizes open in an export."""
    if not numbers:
        return torch.empty(0, dtype=dtype, device=device)
    return torch.stack([torch.scalar_tensor(n, dtype=dtype, device=device) for n in numbers])
