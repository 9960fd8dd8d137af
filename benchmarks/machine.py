"""The machine that a benchmark runs on: its speed, its memory, and what other programs take."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

# The share of the machine's CPU time that other programs may take before figures are flagged.
QUIET = 0.05


class Meter:
    """Measures, inside a ``with`` block, what this process and what all others took.

    Args:
        threads: that the block computes with.

    Attributes:
        seconds: of the block; with one thread, of CPU time, which others hardly lengthen. It
            includes children that the block waited for.
        foreign: CPU time of other programs (and, on a virtual machine, of other machines) as a
            share of that of all cores; 0 where Linux's ``/proc`` is missing.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> Meter:
        self._start = time.perf_counter(), _busy_seconds(), _own_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        wall, own = time.perf_counter() - self._start[0], _own_seconds() - self._start[2]
        others = _busy_seconds() - self._start[1] - own
        self.seconds = own if self.threads == 1 else wall
        self.foreign = max(0.0, others / (wall * (os.cpu_count() or 1)))


def _busy_seconds() -> float:
    """Return the CPU time of everything since this machine started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Return the CPU time of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


def memory() -> dict[str, int]:
    """Return the ``peak`` memory of this process in bytes, and ``files``, its part in libraries.

    How many pages of a library count depends on how the system caches the file. ``ru_maxrss`` would
    include what the parent held before it started this process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return {"peak": int(kib["VmHWM"]) * 1024, "files": int(kib["RssFile"]) * 1024}


def cpu_flags() -> list[str]:
    """List those of the CPU's instruction sets that decide on its speed, in short."""
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}
    flags = _cpu_info("flags").split()
    return [name for flag, name in known.items() if flag in flags]


def description(threads: int) -> str:
    """Return the processor, its number of cores and threads in use, and PyTorch's version."""
    return (
        f"{_cpu_info('model name') or platform.processor()} ({', '.join(cpu_flags())}), "
        f"{os.cpu_count()} cores, {threads} threads, PyTorch {torch.__version__}"
    )


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


@torch.inference_mode()
def convolution_rate(dtype: torch.dtype) -> float:
    """Return the most FLOP/s that a 3x3 convolution reaches; an addition counts as one, too."""
    x = torch.randn(1, 256, 200, 304, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    flop = 2 * x[0, 0].numel() * weight.numel()
    return flop / _fastest(lambda: F.conv2d(x, weight, padding=1))


@torch.inference_mode()
def copy_rate() -> float:
    """Return the bytes per second that a copy larger than the caches reads and writes."""
    source = torch.randn(64 << 20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source))


def now() -> float:
    """Return seconds since some moment; with one thread of PyTorch, of CPU time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _fastest(run: Callable[[], object], calls: int = 12) -> float:
    times = []
    for _ in range(calls):
        start = now()
        run()
        times.append(now() - start)
    return min(times)


def median_of(runs: list[dict], key: str) -> float:
    """Return the median of a figure over runs."""
    return statistics.median(run[key] for run in runs)
