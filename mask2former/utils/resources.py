"""What this process may use, limits of containers included, and how old it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the number of processor cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # not Linux
        cores = os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def free_memory() -> int | None:
    """Return the bytes of memory that this process may still take, or None if it is not known."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    if found is None:  # not Linux
        return None
    free = int(found[1]) * 1024
    limit, used = (_read(_CGROUP / f"memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        # The cache of files counts as used, but makes room.
        cache = re.search(r"^inactive_file (\d+)$", _read(_CGROUP / "memory.stat"), re.MULTILINE)
        free = min(free, int(limit) - int(used) + (int(cache[1]) if cache else 0))
    return max(0, free)


def process_age() -> float:
    """Return how long ago this process began, in seconds; 0 if it is not known."""
    # The name of the program, in parentheses, may hold spaces. The 22nd field is in ticks.
    fields = _read(Path("/proc/self/stat")).rpartition(")")[2].split()
    uptime = _read(Path("/proc/uptime")).split()
    if len(fields) < 20 or not uptime:  # not Linux
        return 0.0
    return max(0.0, float(uptime[0]) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
