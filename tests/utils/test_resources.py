"""What this process may use."""

import os
import subprocess
import sys

import pytest
from support import REPOSITORY

from mask2former.utils import resources

FILE = str(REPOSITORY / "mask2former/utils/resources.py")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_are_those_that_the_process_is_bound_to():
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os, runpy; os.sched_setaffinity(0, [{core}]); "
        f"print(runpy.run_path({FILE!r})['usable_cores']())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert 1 <= resources.usable_cores() <= os.cpu_count()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_memory_is_part_of_that_of_the_machine():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < resources.free_memory() <= total


def test_limits_of_a_container(tmp_path, monkeypatch):
    for name, text in (
        ("cpu.max", "150000 100000\n"),
        ("memory.max", "300000\n"),
        ("memory.current", "250000\n"),
        ("memory.stat", "anon 1\ninactive_file 40000\n"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    assert resources.usable_cores() == 1
    assert resources.free_memory() == 90_000
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.usable_cores() == len(os.sched_getaffinity(0))
    assert resources.free_memory() > 90_000
