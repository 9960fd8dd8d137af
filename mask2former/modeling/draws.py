"""Random draws that depend on the image, and not on the batch or the process that it is part of.

So several processes draw what a single process with the same images would draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

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
