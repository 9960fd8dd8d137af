"""Multi-scale deformable attention in Triton, for GPUs without the compiled operator.

The programs are in ``triton_jit.py``, which is imported at first use: this file needs no Triton.
Triton's interpreter (``TRITON_INTERPRET=1``, set before Triton is imported) runs them on the CPU.

Shapes:
    B: batch, S: sum of H_l * W_l over all levels, Q: queries, H: heads, D: channels per head,
    L: levels, P: sampling points per level and head.
"""

from __future__ import annotations

import functools
import subprocess

import torch
from torch import Tensor
from torch._prims_common import alert_not_deterministic

from .checks import check_all
from .pytorch import zero_gradients

# The oldest GPUs that a Triton compiler for PyTorch 2.4 or newer writes programs for.
_MIN_CAPABILITY = (7, 0)
_WARP = 32
_WARPS = 4
# Bytes of one corner that a thread holds: one load. More would only add registers.
_BYTES_PER_THREAD = 16


@functools.cache
def unavailable_reason() -> str | None:
    """Return why the Triton programs cannot run in this process, or None if they can.

    Asking initialises CUDA on the current GPU, and Triton's driver with it, which Triton
    compiles with the machine's C compiler the first time it is used (and caches in
    ``TRITON_CACHE_DIR``). So ask when there is a tensor on the GPU, not while importing.
    """
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    if _is_interpreted():
        return None
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    capability = torch.cuda.get_device_capability()
    if torch.version.hip is None and capability < _MIN_CAPABILITY:
        return (
            f"{torch.cuda.get_device_name()} has compute capability {capability}, "
            f"Triton needs {_MIN_CAPABILITY} or newer"
        )
    try:
        triton.runtime.driver.active.get_current_target()
    except (
        # No C compiler; no headers of Python or a compiler that fails; no libcuda; a cache
        # directory that cannot be written or from where nothing can be loaded.
        RuntimeError,
        subprocess.CalledProcessError,
        AssertionError,
        OSError,
        ImportError,
    ) as error:
        return f"Triton's driver cannot be set up (it needs a C compiler and Python.h): {error}"
    return None


def is_available() -> bool:
    """Return whether the Triton programs can run in this process; see `unavailable_reason`."""
    return unavailable_reason() is None


def ms_deform_attn_triton(*arguments: Tensor) -> Tensor:
    """Compute ``mask2former::ms_deform_attn``; half types are summed in float32.

    Args:
        arguments: as of `ms_deform_attn_pytorch`. The contents of spatial_shapes and
            level_start_index are checked on the CPU only. Elsewhere wrong ones give wrong results,
            but no access outside the tensors.

    Returns:
        (B, Q, H * D), of value's dtype.

    Raises:
        ValueError: the arguments do not fit together; the message names them.
    """
    check_all(*arguments)
    value, *_, attention_weights = arguments
    B, Q, H, D = (*attention_weights.shape[:3], value.shape[3])
    if attention_weights.numel() == 0 or D == 0:
        return value.new_zeros(B, Q, H * D)
    output = value.new_empty(B, Q, H * D)
    _launch("forward_kernel", value.element_size(), [*arguments], [output])
    return output


def ms_deform_attn_backward_triton(
    grad_output: Tensor, *arguments: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `ms_deform_attn_triton`, of the arguments' dtypes and shapes.

    Args:
        grad_output: (B, Q, H * D), of value's dtype.
        arguments: as given to the forward pass.

    Returns:
        The gradients of value, of sampling_locations and of attention_weights. That of value is
        added up in float32 (float64 for float64) in no fixed order, so its last bits vary.

    Raises:
        ValueError: the arguments do not fit together; the message names them.
        RuntimeError: under ``torch.use_deterministic_algorithms(True)``, unless it only warns.
    """
    check_all(*arguments, grad_output=grad_output)
    value, _, _, sampling_locations, attention_weights = arguments
    if attention_weights.numel() == 0 or value.shape[3] == 0:
        return zero_gradients(*arguments)
    alert_not_deterministic("ms_deform_attn_backward in Triton")
    grad_value = value.new_zeros(value.shape, dtype=_accumulator(value.dtype))
    grad_locations = sampling_locations.new_empty(sampling_locations.shape)
    grad_weights = attention_weights.new_empty(attention_weights.shape)
    _launch(
        "backward_kernel",
        grad_value.element_size(),
        [*arguments, grad_output],
        [grad_value, grad_locations, grad_weights],
    )
    return grad_value.to(value.dtype), grad_locations, grad_weights


def tile(D: int, element_size: int) -> dict[str, int]:
    """Choose the constants of a program: `BLOCK_Q` queries, `BLOCK_D` channels, number of warps.

    Args:
        D: channels per head.
        element_size: bytes of what the program's tiles hold: of the values in the forward pass, of
            their sum in the backward pass, where gradients need the registers.
    """
    channels = 1 << (D - 1).bit_length()
    channels_per_thread = _BYTES_PER_THREAD // element_size
    # With as many queries as threads, Triton would spread the locations over the threads and bring
    # them to the channels through shared memory; fewer are loaded where they are needed.
    threads = _WARPS * _WARP
    queries = max(1, min(threads // 2, threads * channels_per_thread // channels))
    # Very wide heads: more warps on a single query.
    warps = max(_WARPS, min(4 * _WARPS, channels // (_WARP * channels_per_thread)))
    return {"BLOCK_Q": queries, "BLOCK_D": channels, "num_warps": warps}


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _is_interpreted() -> bool:
    from triton.runtime import JITFunction

    from .triton_jit import forward_kernel

    return not isinstance(forward_kernel, JITFunction)


def _launch(kernel: str, element_size: int, inputs: list[Tensor], outputs: list[Tensor]) -> None:
    """Run a program of ``triton_jit.py`` on the operator's five arguments and its other tensors."""
    import triton.language as tl

    from . import triton_jit

    value, weights = inputs[0], inputs[4]
    _, S, H, D = value.shape
    B, Q, _, L, P = weights.shape
    constants = tile(D, element_size)
    # One dimension, since the others end at 65535.
    grid = (B * H * -(-Q // constants["BLOCK_Q"]),)
    ACC = tl.float64 if _accumulator(value.dtype) == torch.float64 else tl.float32
    inputs = [tensor.to(value.device).contiguous() for tensor in inputs]
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(value):
        getattr(triton_jit, kernel)[grid](
            *inputs, *outputs, S, Q, H, L, P, D=D, ACC=ACC, **constants
        )
