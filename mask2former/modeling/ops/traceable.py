"""The operator as plain tensor operations with open sizes, for programs that run without it.

`torch.export` cannot look into the operator, and runtimes such as ONNX's do not have it. Within
`traced_as`, `ms_deform_attn` is one of these forms instead, for inference only.

Shapes:
    B: batch, S: sum of H_l * W_l over all levels, Q: queries, H: heads, D: channels per head,
    L: levels, P: sampling points per level and head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...utils.tensor_cache import tensor_of
from .checks import level_starts

Sizes = Sequence[tuple[int, int]]  # (height, width) of each level, numbers or symbols of an export
Form = Callable[[Tensor, Sizes, Tensor, Tensor], Tensor]

_form: ContextVar[Form | None] = ContextVar("form", default=None)


@contextlib.contextmanager
def traced_as(form: Form | None) -> Iterator[None]:
    """Let `ms_deform_attn` be `form` within the context; None is for the operator itself."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


def traced_form() -> Form | None:
    """Return the form that the operator has now, or None for itself."""
    return _form.get()


def gather(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Gather the four corners of each sample, and sum them in a batched matrix product.

    Args:
        value: (B, S, H, D).
        sizes: of the levels.
        locations: (B, Q, H, L, P, 2), as (x, y) from 0 to 1.
        weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H * D).
    """
    B, S, H, D = value.shape
    Q, L = locations.shape[1], len(sizes)
    heights, widths, starts = _metadata(sizes, value.device, torch.int32)  # each (L, 1)
    x, x_weights = _corners(locations[..., 0], widths)
    y, y_weights = _corners(locations[..., 1], heights)
    rows = value.reshape(-1, D)  # row (b S + s) H + h
    images = torch.arange(B, device=value.device, dtype=torch.int32) * S
    first = images.view(B, 1, 1, 1, 1) + starts  # (B, 1, 1, L, 1)
    heads = torch.arange(H, device=value.device, dtype=torch.int32).view(H, 1, 1)
    # (B, Q, H, L, 4 P): the corners in y and x, for each of the points
    places = torch.cat([(first + y_ * widths + x_) * H + heads for y_ in y for x_ in x], -1)
    parts = torch.cat([weights * a * b for a in y_weights for b in x_weights], -1)
    output = None
    for level in range(L):  # one at a time: samples are the largest tensor here
        samples = F.embedding(places[:, :, :, level], rows)  # (B, Q, H, 4 P, D)
        summed = parts[:, :, :, level].unsqueeze(-2) @ samples  # (B, Q, H, 1, D)
        output = summed if output is None else output + summed
    assert output is not None
    return output.view(B, Q, H * D)


def _metadata(
    sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the height, the width and the first position of each level, (L, 1) each."""
    starts, _ = level_starts(sizes)
    columns = ([h for h, _ in sizes], [w for _, w in sizes], starts)
    heights, widths, first = (tensor_of(column, dtype, device)[:, None] for column in columns)
    return heights, widths, first


def _corners(location: Tensor, size: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the pixels before and after a place on one axis, and how much each counts.

    A pixel outside the map counts nothing, nor does a place that is NaN or far outside.

    Args:
        location: (..., L, P), from 0 to 1.
        size: (L, 1), pixels on the axis.

    Returns:
        Two pixels, int32 in [0, size), and two weights, (..., L, P) each.
    """
    place = location * size - 0.5
    # Also false for NaN, which must not reach the conversion to integers.
    place = torch.where((place > -1) & (place < size), place, -1.0)
    low = place.floor()
    part = place - low
    first = low.to(torch.int32)
    second = first + 1
    before = torch.where(first >= 0, 1 - part, 0.0)
    after = torch.where(second < size, part, 0.0)
    return (first.clamp(min=0), torch.minimum(second, size - 1)), (before, after)


def grid_sample(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample with PyTorch's `grid_sample`; see `gather`."""
    B, _, H, D = value.shape
    Q = locations.shape[1]
    heights, widths, _ = _metadata(sizes, value.device, value.dtype)
    extent = torch.cat((widths, heights), -1)[:, None]  # (L, 1, 2)
    place = locations * extent - 0.5
    # False for NaN, too. A point with one coordinate of 3 touches no pixel of any map.
    grid = torch.where((place > -1) & (place < extent), 2 * locations - 1, 3.0)
    grid = grid.permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B H, Q, P, 2)
    factors = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)[:, :, None]  # (L, B H, 1, Q, P)
    maps = value.permute(0, 2, 3, 1).reshape(B * H, D, -1)
    output = None
    start = 0
    for level, (height, width) in enumerate(sizes):
        part = maps.narrow(2, start, height * width).unflatten(2, (height, width))
        samples = F.grid_sample(part, grid[level], align_corners=False)  # (B H, D, Q, P)
        summed = (samples * factors[level]).sum(-1)
        output = summed if output is None else output + summed
        start = start + height * width
    assert output is not None
    return output.view(B, H * D, Q).transpose(1, 2)


def node(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Stand for one node of a translated program, for runtimes with a library; see `gather`."""
    B, _, H, D = value.shape
    heights, widths, starts = _metadata(sizes, value.device, torch.int64)
    arguments = value, torch.cat((heights, widths), 1), starts[:, 0], locations, weights
    return torch.onnx.ops.symbolic(
        "mask2former::ms_deform_attn",
        arguments,
        dtype=value.dtype,
        shape=(B, locations.shape[1], H * D),
        version=1,
    )


FORMS: dict[str, Form | None] = {
    "gather": gather,
    "grid_sample": grid_sample,
    "node": node,
    "plugin": None,
}
"""How a traced program computes the operator; `plugin` is the operator itself."""
