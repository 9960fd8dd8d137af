"""What importing the runtime costs."""

import os
import subprocess
import sys

from support import SOURCES


def test_it_imports_numpy_and_pillow_only():
    code = (
        "import sys, mask2former_runtime as package\n"
        "[getattr(package, name) for name in package.__all__]\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    modules = subprocess.check_output(
        [sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONPATH": SOURCES}
    )
    installed = set(modules.split()) - sys.stdlib_module_names
    assert {"mask2former_runtime", "numpy", "PIL"} <= installed
    others = {"detectron2", "hotcoco", "mask2former", "matplotlib", "onnxruntime", "openvino"}
    assert not installed & {*others, "pycocotools", "scipy", "supervision", "torch"}
