"""Each script in `tools/` runs the command of the package that has its name."""

import os
import subprocess
import sys

import pytest
from support import REPOSITORY, SOURCES

# The module that each script runs; install_detectron2 is a script of its own.
MODULES = {
    path.stem: f"mask2former.cli.{path.stem}"
    for path in (REPOSITORY / "tools").glob("*.py")
    if path.stem not in ("install_detectron2", "prepare_dataset")
} | {"prepare_dataset": "mask2former.data.preparation"}


def usage(folder, *command) -> tuple[str, str]:
    """Return the name of the program and everything else that `--help` prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command, "--help"],
        cwd=folder,  # outside the checkout, where only an installed package is found
        env={**os.environ, "PYTHONPATH": SOURCES, "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    name, separator, text = done.stdout.removeprefix("usage: ").partition(" [-h]")
    assert separator
    # The indentation of further lines depends on the length of the name.
    return name, " ".join(text.split())


@pytest.mark.parametrize("tool", sorted(MODULES))
def test_a_tool_and_its_module_have_the_same_help(tool, tmp_path):
    script, expected = usage(tmp_path, str(REPOSITORY / "tools" / f"{tool}.py"))
    module, text = usage(tmp_path, "-m", MODULES[tool])
    assert text == expected
    assert script and module


def test_every_module_of_the_command_line_is_known():
    assert {"analyze_model", "convert_backbone", "convert_checkpoint"} <= set(MODULES)


def test_help_of_the_script_that_installs_detectron2(tmp_path):
    name, text = usage(tmp_path, str(REPOSITORY / "tools/install_detectron2.py"))
    assert name == "install_detectron2.py"
    assert "sal-detectron2" in text
