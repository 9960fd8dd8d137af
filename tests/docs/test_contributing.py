"""What CONTRIBUTING.md and the hooks say of this repository is so."""

import re
import subprocess

import pytest
import yaml
from support import REPOSITORY


def test_hooks_run_what_make_lint_runs():
    lint = subprocess.run(
        ["make", "-n", "lint"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout
    linters = set(re.findall(r"^\S+/bin/(\S+)(?! .*install)", lint, re.MULTILINE))
    linters -= {"pip", "python"}  # of the installation
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    assert {entry[0] for entry in entries} == linters
    schemas = {word for entry in entries for word in entry if word.startswith("vendor.")}
    assert schemas == set(re.findall(r"vendor\.[\w-]+", lint))


@pytest.mark.parametrize("page", ["CONTRIBUTING.md"])
def test_files_that_are_named_exist(page):
    text = (REPOSITORY / page).read_text()
    names = [name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name]
    assert len(names) > 20
    for name in names:
        if "NAME" not in name:
            assert (REPOSITORY / name).exists(), name
