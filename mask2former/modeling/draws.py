"""Random draws that depend on the image, and not on the batch or the process that it is part of.

So several processes draw what a single process with the same images would draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ops.cpu_kernels import cpu_kernel

_generators: ContextVar[list[torch.Generator] | None] = ContextVar("_generators", default=None)


@contextmanager
def draws_per_image(inputs: Sequence[Mapping[str, Any]], device: torch.device) -> Iterator[None]:
    """Within the block, let `rand` draw the numbers of each image from a generator of its own.

    Args:
        inputs: the model's inputs. ``seed``, which the loader of this package adds, is the seed of
            the image's generator. If an input lacks it, the global generator is used for all.
        device: where the numbers are drawn.
    """
    generators = None
    if all("seed" in x for x in inputs):
        generators = [torch.Generator(device).manual_seed(x["seed"]) for x in inputs]
    token = _generators.set(generators)
    try:
        yield
    finally:
        _generators.reset(token)


def rand(counts: Sequence[int], *shape: int, device: torch.device) -> Tensor:
    """Draw uniform numbers in [0, 1).

    Args:
        counts: rows of each image of the batch.
        shape: of each row.
        device: of the result.

    Returns:
        (sum of `counts`, \\*`shape`), float32.
    """
    generators = _generators.get()
    if generators is None:
        return torch.rand(sum(counts), *shape, device=device)
    return torch.cat(
        [
            torch.rand(count, *shape, device=device, generator=generator)
            for count, generator in zip(counts, generators, strict=True)
        ]
    )


def rand_many(counts: Sequence[int], *shape: int, device: torch.device) -> Tensor:
    """Draw as `rand` does, for millions of numbers.

    On a CPU, the generator of an image only draws a seed. The numbers are those of SplitMix64, two
    of each output. They are computed independently of each other, unlike those of PyTorch, which
    takes several times as long. The global generator's numbers are PyTorch's, so that they are
    those of other implementations with the same seed.
    """
    generators = _generators.get()
    if generators is None or device.type != "cpu":
        return rand(counts, *shape, device=device)
    numbers = torch.empty(sum(counts), *shape)
    for part, generator in zip(numbers.split(list(counts)), generators, strict=True):
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        kernel = cpu_kernel("uniform_", part)
        if kernel is not None:
            kernel(part, seed)
        else:
            _fill(part.view(-1).numpy(), seed)
    return numbers


def _fill(numbers: np.ndarray, seed: int) -> None:
    """Fill in what the kernel does, some thousand numbers at a time."""
    step = 2**14
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step]
        bits = _splitmix64(seed, start // 2, (len(part) + 1) // 2)
        halves = bits.astype("<u8", copy=False).view("<u4")[: len(part)]
        np.multiply(halves >> 8, np.float32(2.0**-24), out=part)


def _splitmix64(seed: int, first: int, count: int) -> np.ndarray:
    """Return `count` outputs of SplitMix64 from number `first` on: (count,) uint64."""
    z = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return z ^ (z >> np.uint64(31))
