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
    # the result alone is 100 * 3000 * 4000 bytes = 1.2 GB
    assert 1.2e9 < figures["peak"] < 2.5e9
