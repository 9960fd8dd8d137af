"""The compiled CPU kernels beside deformable attention.

Each does in one pass what PyTorch does in several. Its form without one, next to where it is used,
is its oracle in the tests, and serves other devices, installations without a compiler, gradients,
and programs that are compiled or exported.

Shapes:
    Q: queries, D: detections, h, w: size of mask logits, H, W: size of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from .library import has_compiled_kernel

_SCHEMAS = (
    "ms_deform_attn_projected(Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
    "Tensor references, Tensor projected) -> Tensor",
    "instance_masks(Tensor mask_logits, Tensor queries, SymInt[2] padded_size, "
    "SymInt[2] image_size, SymInt[2] output_size) -> (Tensor, Tensor, Tensor)",
    "sample_maps(Tensor maps, Tensor of, Tensor points) -> Tensor",
    "sample_maps_backward(Tensor grad, Tensor maps, Tensor of, Tensor points) -> Tensor",
    "points_nearest_zero(Tensor maps, Tensor of, Tensor points, SymInt count) -> Tensor",
    "sample_packed_masks(Tensor planes, SymInt count, Tensor of, Tensor points, "
    "SymInt[2] image_size) -> Tensor",
    "mask_loss_sums(Tensor logits, Tensor targets) -> Tensor",
    "mask_loss_sums_backward(Tensor grad, Tensor logits, Tensor targets) -> Tensor",
    "mask_probabilities(Tensor logits) -> (Tensor, Tensor)",
    "residual_norm(Tensor x, Tensor branch, Tensor weight, Tensor bias, float eps, "
    "Tensor(a!) out) -> Tensor(a!)",
    "upsample_add_(Tensor(a!) lateral, Tensor above) -> Tensor(a!)",
    "uniform_(Tensor(a!) out, int seed) -> Tensor(a!)",
)

_off: ContextVar[bool] = ContextVar("_off", default=False)

_library = torch.library.Library("mask2former", "FRAGMENT")
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def cpu_kernel(name: str, *tensors: Tensor) -> Callable[..., Any] | None:
    """Return the compiled operator `name` if it can serve `tensors`, else None.

    It serves tensors on the CPU that record no gradients, if the compiled library is loaded and has
    it. `library.implementation` says in the log whether it is loaded, and why not.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # the compiler sees no further
        return None
    if _off.get() or not has_compiled_kernel(name, "cpu"):
        return None
    recording = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if recording or any(tensor.device.type != "cpu" for tensor in tensors):
        return None
    return getattr(torch.ops.mask2former, name)


@contextmanager
def pytorch_forms() -> Iterator[None]:
    """Within the block, `cpu_kernel` finds no kernel: to compare the two."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)
