"""Peak memory of a whole inference process."""

import json
import subprocess
import sys

from support import REPOSITORY


def test_a_hundred_instances_at_12_megapixels_stay_under_2_5_gb():
    script = REPOSITORY / "benchmarks/bench_inference.py"
    command = [sys.executable, script, "--measure", "ours", "800x1067 to 3000x4000"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["instances"] == 100
    # The result alone takes 100 * 3000 * 4000 bytes = 1.2 GB. Memory-mapped library files take at
    # least 0.3 GB, depending on how the system caches them, so both sides leave them out here.
    assert 1.2e9 < figures["peak"] - figures["files"] < 2.2e9
