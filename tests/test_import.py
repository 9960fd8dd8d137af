"""Importing the package and asking for help print nothing that users could not act on."""

import subprocess
import sys

import pytest
from support import REPOSITORY


def stderr_of(*arguments):
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import mask2former"),
        ("-W", "error::FutureWarning", "-c", "import mask2former"),
        ("train_net.py", "--help"),
        ("demo/demo.py", "--help"),
    ],
)
def test_there_is_no_warning(arguments):
    assert stderr_of(*arguments) == ""


def test_later_warnings_are_shown():
    code = "import mask2former, torch; torch.jit.script(torch.nn.Identity())"
    assert "`torch.jit.script` is deprecated" in stderr_of("-W", "always", "-c", code)
