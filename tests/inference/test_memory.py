"""Peak memory of a whole inference process."""

import json
import subprocess
import sys

from support import REPOSITORY


def figures_of(case):
    """Measure in a process of its own."""
    script = REPOSITORY / "benchmarks/measure.py"
    command = [sys.executable, script, json.dumps(case), "--calls", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_a_hundred_instances_at_12_megapixels_stay_under_2_5_gb(tmp_path):
    model = {"folder": str(tmp_path)}
    figures_of({"kind": "save", **model})
    sizes = {"size": (800, 1067), "output": (3000, 4000)}
    figures = figures_of({"kind": "inference", **model, **sizes})
    assert figures["result"] == 100
    # The result alone takes 100 * 3000 * 4000 bytes = 1.2 GB. Memory-mapped library files take at
    # least 0.3 GB, depending on how the system caches them, so both sides leave them out here.
    assert 1.2e9 < figures["peak"] - figures["files"] < 2.2e9
