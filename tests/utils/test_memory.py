"""What happens to freed memory, as the kernel counts it: page faults and resident pages."""

import platform
import subprocess
import sys

import pytest

glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")

FAULTS = """
import resource
import torch
from mask2former.utils.memory import return_freed_memory, reuse_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    # An aligned block takes some bytes before it, so that the next of its size may not fit there.
    for size in (64, 60, 56, 52, 48):
        torch.ones(size, 2**18)  # so many MiB, of 256 pages each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

default = faults()
assert reuse_freed_memory()
faults()
again = faults()
kept = resident()
return_freed_memory()
print(default, again, kept - resident())
"""


@glibc_only
def test_freed_memory_is_used_again_until_it_is_returned():
    result = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    default, again, returned = map(int, result.stdout.split())
    assert default >= 256 * (64 + 60 + 56 + 52 + 48)  # what the setting is for
    assert again <= default / 3  # the first block may not fit where the first one was
    assert returned >= 16000
