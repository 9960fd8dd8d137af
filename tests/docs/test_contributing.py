"""What CONTRIBUTING.md and the hooks say of this repository is so."""

import re

import yaml
from support import REPOSITORY


def test_hooks_run_what_make_lint_runs():
    makefile = (REPOSITORY / "Makefile").read_text()
    lint = re.search(r"^lint: install\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    linters = set(re.findall(r"\$\(BIN\)/([\w-]+)", lint))
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    assert {entry[0] for entry in entries} == linters
    schemas = {word for entry in entries for word in entry if word.startswith("vendor.")}
    assert schemas == set(re.findall(r"vendor\.[\w-]+", lint))


def test_files_that_are_named_exist():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    names = [name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name]
    assert len(names) > 20
    for name in names:
        if "NAME" not in name:
            assert (REPOSITORY / name).exists(), name
