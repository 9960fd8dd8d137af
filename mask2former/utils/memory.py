"""What the C library does with memory that was freed.

A network on a CPU makes and frees tensors of tens of megabytes all the time. By default, glibc maps
each of them anew and unmaps it again, so that the kernel zeroes every page of every tensor.
"""

from __future__ import annotations

import ctypes
import sys

# As in malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# Freed memory above this at the end of the heap goes back to the system.
_KEPT_BYTES = 2**29


def reuse_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensors of this process.

    This is for programs, not for libraries: it changes the whole process, and cannot be undone.
    Inference with an R50 at 800 x 1216 pixels in float32 takes some 14 % less time and 14 % more
    memory.

    Returns:
        Whether the C library is glibc, which can do it; with others, nothing changes.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    # With one arena, a thread that does not start with the program reuses memory, too.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT_BYTES), (_ARENA_MAX, 1))
    return all(mallopt(*setting) == 1 for setting in settings)


def return_freed_memory() -> None:
    """Give memory that the C library keeps after it was freed back to the system.

    After the network's forward that is some 0.3 GB, in pieces too small for a large result.
    """
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, name) if hasattr(library, "gnu_get_libc_version") else None
