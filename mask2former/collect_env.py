"""Print what a bug report needs: `python -m mask2former.collect_env`."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import mask2former

from .modeling.ops import library

PACKAGES = ("torch", "torchvision", "triton", "detectron2", "numpy", "PIL", "hotcoco")


def collect_env() -> str:
    """Format a table of versions, hardware, compilers and the operator's implementations."""
    rows = [
        ("mask2former", f"{mask2former.__version__} @ {Path(mask2former.__file__).parent}"),
        ("platform", platform.platform()),
        ("Python", f"{platform.python_version()} @ {sys.executable}"),
        *((name, _version(name)) for name in PACKAGES),
        ("CPU capability", torch.backends.cpu.get_cpu_capability()),
        ("CUDA of torch", torch.version.cuda or "none: this torch is for the CPU"),
        *_gpus(),
        ("nvcc", _first_line([_nvcc(), "--version"], containing="release")),
        ("C++ compiler", _first_line([os.environ.get("CXX", "c++"), "--version"])),
        (library.VARIABLE, library.FORCED or "not set"),
        *((f"ms_deform_attn on {device}", _operator(device)) for device in _devices()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _version(name: str) -> str:
    try:
        return str(importlib.import_module(name).__version__)
    except ImportError as error:
        return f"cannot be imported: {error}"


def _gpus() -> list[tuple[str, str]]:
    rows = []
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory = gpu.total_memory / 2**30
        rows.append((f"GPU {index}", f"{gpu.name}, {gpu.major}.{gpu.minor}, {memory:.0f} GiB"))
    return rows or [("GPU", "none that this torch can use")]


def _nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    return os.path.join(home, "bin", "nvcc") if home else "nvcc"


def _first_line(command: list[str], containing: str = "") -> str:
    program = shutil.which(command[0])
    if program is None:
        return f"not found: {command[0]}"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in done.stdout.splitlines() if containing in line]
    return f"{lines[0] if lines else done.stderr.strip() or 'silent'} @ {program}"


def _devices() -> list[str]:
    """List the types of device that PyTorch can use here."""
    available = {
        "cuda": torch.cuda.is_available(),
        "xpu": torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    return ["cpu", *(name for name, is_available in available.items() if is_available)]


def _operator(device_type: str) -> str:
    try:
        name, reason = library.implementation(device_type)
    except (RuntimeError, ValueError) as error:  # the forced implementation is not available
        return f"error: {error}"
    return f"{name} ({reason})"


if __name__ == "__main__":
    print(collect_env())
