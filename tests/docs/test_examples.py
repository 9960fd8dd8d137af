"""The examples of the documentation run, and its commands exist."""

import argparse
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from markdown import PAGES, anchors, blocks, commands, local_links
from support import REPOSITORY

from mask2former.cli.main import argument_parser
from mask2former_runtime import cli

PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]
SHELL_PAGES = [page for page in PAGES if commands(page)]
# Examples that cannot run in a test, by page, with the reason that the page gives.
NOT_RUN = {"docs/weights.md": ["downloads 176 MB"]}
# Programs of other projects, whose arguments are not checked.
OTHERS = {
    *("cd", "curl", "eval", "export", "git", "nvcc", "pip", "pre-commit", "source"),
    *("csCreatePanopticImgs", "csCreateTrainIdLabelImgs"),
}
WITHOUT_ARGUMENTS = {"tools/install_detectron2.py", "mask2former.collect_env"}


class CommandAccepted(Exception):  # noqa: N818  no error
    """A command line has been accepted."""


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_examples_run(page, example_files, shapes, registries, monkeypatch):
    monkeypatch.chdir(example_files)
    namespace = {"__name__": "example"}
    for block in blocks(page, "python"):
        if block.not_run is None:
            exec(compile(block.code, REPOSITORY / page, "exec"), namespace)


def test_examples_that_do_not_run_are_those_that_say_so():
    marked = {
        page: [block.not_run for block in blocks(page, "python") if block.not_run]
        for page in PYTHON_PAGES
    }
    assert {page: reasons for page, reasons in marked.items() if reasons} == NOT_RUN
    count = sum(len(blocks(page, "python")) for page in PYTHON_PAGES)
    print(f"{count} examples on {len(PYTHON_PAGES)} pages; not run: {NOT_RUN}")
    assert count > 15


@pytest.mark.parametrize("page", SHELL_PAGES)
def test_commands_exist_and_take_their_arguments(page, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for words in commands(page):
        check_command(words, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "python train_net.py --config-file configs/quickstart/instance.yaml --trian-json a.json",
        "python train_net.py --config-file configs/quickstart/instances.yaml",
        "python demo/demos.py",
        "python -m mask2former.cli.no_such_command",
        "mask2former predict --no-such-option x",
        "mask2former no_such_verb",
        "make no_such_target",
        "no_such_program",
    ],
)
def test_wrong_commands_are_found(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises((AssertionError, SystemExit)):
        check_command(command.split(), monkeypatch)


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the program exists and takes these arguments."""
    for word in words:
        assert not word.startswith("configs/") or Path(word).exists(), f"there is no {word}"
    program, *arguments = words
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):(?!=)", Path("Makefile").read_text(), re.MULTILINE))
        assert {word for word in arguments if "=" not in word} <= targets, words
    elif program == "python" and arguments[:2] == ["-m", "pytest"]:
        assert all(Path(path).exists() for path in arguments[2:] if not path.startswith("-")), words
    elif program == "python":
        check_python(arguments, monkeypatch)
    elif program == "torchrun":
        check_python(arguments[arguments.index("train_net.py") :], monkeypatch)
    elif program == "mask2former":
        argument_parser().parse_args(arguments)
    elif program == "mask2former-runtime":
        cli.argument_parser().parse_args(arguments)
    else:
        assert program in OTHERS, f"unknown program: {words}"


def check_python(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the program's own parser accepts the arguments."""
    is_module = arguments[0] == "-m"
    name, *rest = arguments[is_module:]
    exists = importlib.util.find_spec(name) if is_module else Path(name).is_file()
    assert exists, f"there is no {name}"
    if name in WITHOUT_ARGUMENTS:
        assert not rest, arguments
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise CommandAccepted

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [name, *rest])
        if not is_module:  # as Python does, so that programs find the modules beside them
            patch.syspath_prepend(str(Path(name).parent))
        run = runpy.run_module if is_module else runpy.run_path
        with pytest.raises(CommandAccepted):
            run(name, run_name="__main__")


@pytest.mark.parametrize("page", [page for page in PAGES if "/" not in page])
def test_links_of_pages_outside_docs_lead_somewhere(page):
    """Sphinx checks those of docs/."""
    for link in local_links(page):
        name, _, anchor = link.partition("#")
        path = REPOSITORY / (name or page)
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link
