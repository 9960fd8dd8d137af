"""Keeping small constant tensors from one call to the next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def cached_tensors(function: Callable[..., T]) -> Callable[..., T]:
    """Cache the tensors that `function` makes; call it with `like=`, a tensor of the computation.

    The arguments of `function`, such as sizes and a device, are hashable. Making such tensors anew
    in each call would let the CPU wait for a GPU. Where `like` is a fake tensor or a compiler
    traces, the result is of use only there and is not kept.
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
