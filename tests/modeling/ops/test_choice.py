"""What computes the operator is chosen once, said in the log, and can be forced.

The choice is made for a process, so each test starts one.
"""

import importlib.machinery
import os
import subprocess
import sys

import pytest
import torch
from support import REPOSITORY, SOURCES

from mask2former.collect_env import collect_env
from mask2former.modeling.ops.library import find_compiled

COMPILED, WHY_NOT_COMPILED = find_compiled(REPOSITORY / "mask2former")
CALL = """
import logging, torch
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
from mask2former.modeling.ops import ms_deform_attn
print("imported", flush=True)
for _ in range(2):
    print(ms_deform_attn(torch.ones(1, 4, 1, 1), [(2, 2)], torch.full((1, 1, 1, 1, 1, 2), 0.5),
                         torch.ones(1, 1, 1, 1, 1)).tolist())
"""


def run(*command, **variables):
    chosen = ("MASK2FORMER_OPS", "TRITON_INTERPRET")
    environment = {k: v for k, v in os.environ.items() if k not in chosen}
    path = [SOURCES, os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return subprocess.run(
        [sys.executable, *command],
        env={**environment, **variables},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "compiled (/" if COMPILED else f"pytorch ({WHY_NOT_COMPILED}; Triton serves GPUs"),
        ({"MASK2FORMER_OPS": "pytorch"}, "pytorch (MASK2FORMER_OPS=pytorch)"),
        (
            {"MASK2FORMER_OPS": "triton", "TRITON_INTERPRET": "1"},
            "triton (MASK2FORMER_OPS=triton)",
        ),
    ],
)
def test_the_choice_is_logged_once(variables, line):
    if variables.get("MASK2FORMER_OPS") == "triton":
        pytest.importorskip("triton")
    done = run("-c", CALL, **variables)
    if "only 0-dimensional arrays" in done.stderr and "interpreter.py" in done.stderr:
        pytest.skip("this Triton's interpreter does not work with this NumPy (2.5 and Triton 3.6)")
    assert done.stdout.splitlines() == ["imported", *["[[[1.0]]]"] * 2], done.stderr
    logged = [text for text in done.stderr.splitlines() if "ms_deform_attn" in text]
    assert len(logged) == 1
    assert logged[0].startswith(
        f"INFO mask2former.modeling.ops.library ms_deform_attn on cpu: {line}"
    )


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        pytest.param(
            "compiled",
            "RuntimeError: MASK2FORMER_OPS=compiled cannot serve tensors on cpu: "
            f"{WHY_NOT_COMPILED}",
            marks=pytest.mark.skipif(COMPILED is not None, reason="it is compiled"),
        ),
        (
            "triton",
            "RuntimeError: MASK2FORMER_OPS=triton cannot serve tensors on cpu: "
            "Triton serves GPUs, and the CPU with TRITON_INTERPRET=1",
        ),
    ],
)
def test_forcing_what_is_not_there_is_an_error(forced, message):
    done = run("-c", CALL, MASK2FORMER_OPS=forced)
    # importing still works, so that the report of the environment does
    assert done.stdout == "imported\n"
    assert done.stderr.splitlines()[-1] == message


def test_a_library_that_cannot_be_loaded_is_reported(tmp_path):
    """As one that was built for another torch."""
    broken = tmp_path / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    broken.write_bytes(b"no library")
    program = "from mask2former.modeling.ops import library; from pathlib import Path; import sys; "
    done = run("-c", program + "print(library._load_compiled(Path(sys.argv[1])))", str(tmp_path))
    assert f"failed to load {broken} with torch {torch.__version__}: " in done.stdout, done.stderr
    assert f"The compiled operators failed to load {broken}" in done.stderr


def test_a_library_for_another_python_is_named(tmp_path):
    assert find_compiled(tmp_path)[0] is None
    (tmp_path / "_C.cpython-27-other.so").touch()
    path, reason = find_compiled(tmp_path)
    assert path is None
    assert reason.endswith("for this Python, only _C.cpython-27-other.so")
    for suffix in reversed(importlib.machinery.EXTENSION_SUFFIXES):
        (tmp_path / f"_C{suffix}").touch()
        assert find_compiled(tmp_path)[0] == tmp_path / f"_C{suffix}"


def test_the_report_of_the_environment():
    lines = dict(line.split("  ", 1) for line in collect_env().splitlines())
    assert lines["torch"].strip() == torch.__version__
    assert {"mask2former", "Python", "detectron2", "nvcc", "C++ compiler"} <= set(lines)
    assert "ms_deform_attn on cpu" in lines


def test_the_report_of_an_environment_with_a_mistake():
    done = run("-m", "mask2former.collect_env", MASK2FORMER_OPS="fast")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert lines["MASK2FORMER_OPS"].strip() == "fast"
    assert lines["ms_deform_attn on cpu"].strip() == (
        "error: the environment variable MASK2FORMER_OPS is 'fast'; "
        "it must be one of compiled, triton, pytorch or unset"
    )
