"""The tests of the operator again with each implementation that is not the one chosen here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import REPOSITORY, SOURCES

from mask2former.modeling.ops import library

HERE = Path(__file__).parent
FILES = ("test_ms_deform_attn.py", "test_bad_input.py", "test_registrations.py")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("compiled", FILES),
        ("pytorch", FILES),
        ("triton", FILES[1:2]),
        # Triton's interpreter takes its time; test_triton.py looks at its numbers.
        pytest.param("triton", FILES, marks=pytest.mark.slow),
    ],
)
def test_every_implementation_passes_the_same_tests(name, files):
    if name == library.implementation("cpu").name:
        pytest.skip("the other tests ran with it")
    if name == "triton":
        pytest.importorskip("triton")
    compiled, reason = library.find_compiled(REPOSITORY / "mask2former")
    if name == "compiled" and compiled is None:
        pytest.skip(reason)
    interpreter = {"TRITON_INTERPRET": "1"} if name == "triton" else {}
    run(name, files, CUDA_VISIBLE_DEVICES="", **interpreter)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", library.IMPLEMENTATIONS)
def test_every_implementation_passes_the_same_tests_on_a_gpu(name):
    if name == library.implementation("cuda").name:
        pytest.skip("the other tests ran with it")
    compiled, reason = library.find_compiled(REPOSITORY / "mask2former")
    if name == "compiled" and compiled is None:
        pytest.skip(reason)
    run(name, FILES, "-k", "cuda or devices")


def run(name, files, *options, **variables):
    path = os.pathsep.join([SOURCES, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, library.VARIABLE: name, "PYTHONPATH": path}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *options]
        + [str(HERE / file) for file in files],
        env={**environment, **variables},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
