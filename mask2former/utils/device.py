"""Checking whether this machine has a device, and what it computes fast with."""

from __future__ import annotations

import functools
import logging
import statistics
import time
from pathlib import Path

import torch
from torch import nn

logger = logging.getLogger(__name__)

_PRECISIONS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
# As Linux names the CPU's instructions for bfloat16: of x86 and of Arm
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def check_device(name: str, option: str = "") -> None:
    """Raise `ValueError` if PyTorch does not find the device.

    Args:
        name: the value of ``MODEL.DEVICE``, such as "cpu" or "cuda:0".
        option: what precedes config keys on the command line, such as "--opts ".
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE is {name!r}: such as cpu, cuda or cuda:1") from error
    if device.type == "meta" or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(f"MODEL.DEVICE is {name!r}, which this machine does not have")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is '{name}', but PyTorch finds no CUDA device here. "
            f"To run on the CPU, add: {option}MODEL.DEVICE cpu"
        )
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type in ("cpu", "cuda") and (device.index or 0) >= count:
        raise ValueError(f"MODEL.DEVICE is {name!r}, but there are {count} {device.type} devices")


def in_fast_layout(model: nn.Module, device: str) -> nn.Module:
    """Return the model, on a CPU with its convolutions in the layout that it is fastest with.

    Args:
        model: on the device.
        device: the value of ``MODEL.DEVICE``.
    """
    return model.to(memory_format=torch.channels_last) if device == "cpu" else model


def choose_precision(wanted: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision for inference, and log the choice.

    Args:
        wanted: "float32", "float16" or "bfloat16", in short "fp32", "fp16" or "bf16"; a type of
            torch; "auto" for the fastest of them, which a CPU is asked by `bfloat16_speed`; or None
            for float32.
        device: where the model runs. On a CPU without instructions for bfloat16, which would be
            slower than float32, the choice is float32.

    Returns:
        The type for `torch.autocast`, or None for float32.

    Raises:
        ValueError: there is no such type, or the device cannot compute with it.
    """
    if wanted is None:
        return None
    name = str(wanted).removeprefix("torch.")
    is_cpu, is_auto = device.type == "cpu", name == "auto"
    if is_auto:
        name = "bfloat16" if is_cpu else "float16"
    if name not in _PRECISIONS:
        raise ValueError(f"precision is {wanted!r}: choose float32, float16, bfloat16 or auto")
    chosen: torch.dtype | None = _PRECISIONS[name]
    if is_cpu and chosen is torch.float16:
        raise ValueError("float16 is for GPUs: on a CPU, choose float32 or bfloat16")
    why = ""
    if is_cpu and chosen is torch.bfloat16 and not has_fast_bfloat16():
        chosen, why = None, ": this CPU is not faster with bfloat16"
    elif is_cpu and is_auto:
        speed = bfloat16_speed()
        chosen = chosen if speed > 1 else None
        why = f": bfloat16 has {speed:.1f} times the speed of float32 here"
    if chosen is torch.float32:
        chosen = None
    taken = str(chosen or torch.float32).removeprefix("torch.")
    level = logging.WARNING if why and not is_auto else logging.INFO
    logger.log(level, "Precision on %s: %s%s", device, taken, why)
    return chosen


@functools.cache
def has_fast_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return False
    flags = next(
        (line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), ""
    )
    return bool(_BFLOAT16_FLAGS & set(flags.split()))


@functools.cache
def bfloat16_speed() -> float:
    """Measure, in about 0.1 s, how many times as fast as in float32 the CPU is in bfloat16.

    The measured operators are a convolution and a linear layer of the sizes of a small image, with
    the conversion of their inputs and weights.
    """
    convolution = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    linear = nn.Linear(256, 1024)
    feature_map = torch.rand(1, 64, 64, 64).to(memory_format=torch.channels_last)
    tokens = torch.rand(1024, 256)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with torch.inference_mode():
        for _ in range(6):
            for in_bfloat16, times in seconds.items():
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bfloat16):
                    start = time.perf_counter()
                    convolution(feature_map)
                    linear(tokens)
                    times.append(time.perf_counter() - start)
    float32, bfloat16 = (statistics.median(times[1:]) for times in seconds.values())
    return float32 / bfloat16
