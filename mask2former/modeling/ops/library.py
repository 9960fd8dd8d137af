"""Defines ``torch.ops.mask2former.ms_deform_attn`` and chooses what computes it.

What every implementation shares is registered here: schemas, autograd, fake tensors, autocast.
Kernels that the compiled library (``mask2former/_C*.so``, which setup.py builds) has for a device
take precedence. For all other devices the dispatcher comes to `_forward` and `_backward` below.
"""

from __future__ import annotations

import functools
import importlib.machinery
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import triton_kernels
from .checks import HALF_DTYPES, check_arguments, explain_bad_arguments
from .pytorch import ms_deform_attn_backward_pytorch, ms_deform_attn_pytorch

VARIABLE = "MASK2FORMER_OPS"
FORCED = os.environ.get(VARIABLE) or None
IMPLEMENTATIONS = ("compiled", "triton", "pytorch")  # in the order of preference

FORWARD, BACKWARD = "mask2former::ms_deform_attn", "mask2former::ms_deform_attn_backward"
_ARGUMENTS = (
    "Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
    "Tensor sampling_locations, Tensor attention_weights"
)
_SCHEMAS = (
    f"ms_deform_attn({_ARGUMENTS}) -> Tensor",
    f"ms_deform_attn_backward(Tensor grad_output, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    # called by the compiled kernels
    f"explain_bad_arguments({_ARGUMENTS}, Tensor? grad_output) -> ()",
)

logger = logging.getLogger(__name__)


class Choice(NamedTuple):
    """What computes the operator on one type of device, and why."""

    name: str
    reason: str


def find_compiled(folder: Path) -> tuple[Path | None, str]:
    """Return the compiled library for this Python in `folder`, or None and why there is none."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_C{suffix}"
        if path.is_file():
            return path, ""
    others = ", ".join(sorted(path.name for path in folder.glob("_C.*")))
    reason = f"not compiled: no {folder.name}/_C*{importlib.machinery.EXTENSION_SUFFIXES[-1]}"
    return None, reason + (f" for this Python, only {others}" if others else "")


def _load_compiled(folder: Path) -> tuple[str, str]:
    """Load the compiled library in `folder` unless something else is forced.

    Returns:
        The loaded file or "", and why there is none or "".
    """
    if FORCED not in (None, "compiled"):
        return "", f"not loaded: {VARIABLE}={FORCED}"
    path, reason = find_compiled(folder)
    if path is None:
        return "", reason
    try:
        torch.ops.load_library(path)
    except OSError as error:
        reason = f"failed to load {path} with torch {torch.__version__}: {error}"
        logger.warning("The compiled operators %s. Build them again.", reason)
        return "", reason
    return str(path), ""


_library = torch.library.Library("mask2former", "FRAGMENT")
_compiled, _why_not_compiled = _load_compiled(Path(__file__).resolve().parents[2])
for _schema in _SCHEMAS:
    # A library that was compiled from older sources brings schemas with it.
    if not hasattr(torch.ops.mask2former, _schema.partition("(")[0]):
        _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


@functools.cache
def implementation(device_type: str) -> Choice:
    """Choose what computes the operator on a type of device; the first call logs the choice.

    Args:
        device_type: as in `torch.device.type`: "cpu", "cuda", "mps", ...

    Raises:
        ValueError: the environment variable MASK2FORMER_OPS does not name an implementation.
        RuntimeError: it names one that cannot serve the device; the message says why.
    """
    if FORCED is not None and FORCED not in IMPLEMENTATIONS:
        raise ValueError(
            f"the environment variable {VARIABLE} is {FORCED!r}; "
            f"it must be one of {', '.join(IMPLEMENTATIONS)} or unset"
        )
    obstacles: list[str] = []
    for name in IMPLEMENTATIONS if FORCED is None else (FORCED,):
        obstacle = _OBSTACLES[name](device_type)
        if not obstacle:
            break
        obstacles.append(obstacle)
    else:
        raise RuntimeError(
            f"{VARIABLE}={FORCED} cannot serve tensors on {device_type}: {obstacles[0]}"
        )
    reason = "; ".join(obstacles) or (f"{VARIABLE}={FORCED}" if FORCED else _compiled)
    logger.info("ms_deform_attn on %s: %s (%s)", device_type, name, reason)
    return Choice(name, reason)


def wants_sizes_on_device(device_type: str) -> bool:
    """Return whether metadata should be on the device of the values, not on the CPU.

    The compiled kernels and PyTorch take sizes from the CPU, where they are checked without waiting
    for the device. Triton's programs read them from the GPU's memory: copying them there in each
    call would make the CPU wait. The first call chooses an implementation, and logs it.
    """
    return device_type != "meta" and implementation(device_type).name == "triton"


# torch.compiler.assume_constant_result would import the compiler, which takes a second.
wants_sizes_on_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


def has_compiled_kernel(name: str, device_type: str) -> bool:
    """Return whether the loaded library has a kernel of an operator for a type of device."""
    key = torch._C._dispatch_key_for_device(device_type)
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"mask2former::{name}", key)


def _compiled_obstacle(device_type: str) -> str:
    if not _compiled:
        return _why_not_compiled
    if not has_compiled_kernel("ms_deform_attn", device_type):
        return f"compiled without {device_type}"
    return ""


def _triton_obstacle(device_type: str) -> str:
    interpreted = FORCED == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if device_type != "cuda" and not (device_type == "cpu" and interpreted):
        return "Triton serves GPUs, and the CPU with TRITON_INTERPRET=1"
    return triton_kernels.unavailable_reason() or ""


# Why an implementation cannot serve a type of device, "" if it can.
_OBSTACLES: dict[str, Callable[[str], str]] = {
    "compiled": _compiled_obstacle,
    "triton": _triton_obstacle,
    "pytorch": lambda device_type: "",
}


def _forward(*arguments: Tensor) -> Tensor:
    if implementation(arguments[0].device.type).name == "triton":
        return triton_kernels.ms_deform_attn_triton(*arguments)
    return ms_deform_attn_pytorch(*arguments)


def _backward(grad_output: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if implementation(grad_output.device.type).name == "triton":
        return triton_kernels.ms_deform_attn_backward_triton(grad_output, *arguments)
    return ms_deform_attn_backward_pytorch(grad_output, *arguments)


# These serve every device without a kernel of its own. The kernels of the compiled library are
# registered for CPU and CUDA, and take precedence.
_library.impl("ms_deform_attn", _forward, "CompositeExplicitAutograd")
_library.impl("ms_deform_attn_backward", _backward, "CompositeExplicitAutograd")
_library.impl("explain_bad_arguments", explain_bad_arguments, "CompositeExplicitAutograd")


@torch.library.register_fake(FORWARD, lib=_library)
def _fake_forward(*arguments: Tensor) -> Tensor:
    check_arguments(*arguments)
    value, _, _, sampling_locations, _ = arguments
    B, _, H, D = value.shape
    return value.new_empty(B, sampling_locations.shape[1], H * D)


@torch.library.register_fake(BACKWARD, lib=_library)
def _fake_backward(grad_output: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    check_arguments(*arguments, grad_output=grad_output)
    value, _, _, sampling_locations, attention_weights = arguments
    return (
        value.new_empty(value.shape),
        sampling_locations.new_empty(sampling_locations.shape),
        attention_weights.new_empty(attention_weights.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _first_derivative(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grad_value, grad_locations, grad_weights = torch.ops.mask2former.ms_deform_attn_backward(
        grad_output, *ctx.saved_tensors
    )
    return grad_value, None, None, grad_locations, grad_weights


def _second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "the second derivative of ms_deform_attn is not implemented; differentiate once "
        "(create_graph=False), or detach() the operator's output where gradients of gradients "
        "are taken"
    )


torch.library.register_autograd(
    FORWARD, _first_derivative, setup_context=_setup_context, lib=_library
)
torch.library.register_autograd(BACKWARD, _second_derivative, lib=_library)


def _autocast(device_type: str) -> Callable[..., Tensor]:
    """The rule of autocast: values in its dtype, positions and weights in float32.

    Half precision could not tell neighbouring pixels of a large map apart. float64 stays float64.
    """

    def to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        eligible = tensor.dtype in (torch.float32, *HALF_DTYPES)
        return tensor.to(dtype) if eligible and tensor.device.type == device_type else tensor

    def rule(value: Tensor, shapes: Tensor, starts: Tensor, *coordinates: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype(device_type)
        with torch.autocast(device_type, enabled=False):
            return torch.ops.mask2former.ms_deform_attn(
                to(value, dtype), shapes, starts, *(to(x, torch.float32) for x in coordinates)
            )

    return rule


for _device_type in ("cpu", "cuda", "xpu", "mps"):
    _key = f"Autocast{torch._C._dispatch_key_for_device(_device_type)}"
    if hasattr(torch._C.DispatchKey, _key):  # MPS has it since torch 2.5
        _library.impl("ms_deform_attn", _autocast(_device_type), _key)
