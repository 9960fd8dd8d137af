"""The command as a whole: help, speed, and how it reports mistakes."""

import os
import subprocess
import sys

import pytest
from support import REPOSITORY

from mask2former.cli.main import VERBS, argument_parser, main

# As pip's script does it
SCRIPT = (sys.executable, "-c", "from mask2former.cli.main import main; raise SystemExit(main())")
MODULE = (sys.executable, "-m", "mask2former")


def run(*arguments, **options):
    return subprocess.run(
        arguments, capture_output=True, text=True, cwd=REPOSITORY, check=False, **options
    )


def helps():
    return [(), *((verb,) for verb in VERBS)]


@pytest.mark.parametrize("arguments", helps(), ids=" ".join)
def test_help_fits_a_screen(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert any(f"mask2former {' '.join(arguments)}" in line for line in lines[1:])


@pytest.mark.parametrize("program", [SCRIPT, MODULE], ids=["script", "module"])
@pytest.mark.parametrize("arguments", helps(), ids=" ".join)
def test_help_and_mistakes_wait_for_nothing(program, arguments):
    flags = ("-X", "importtime")
    result = run(program[0], *flags, *program[1:], *arguments, "--help")
    assert result.returncode == 0
    assert not {"torch", "detectron2", "numpy"} & {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines()
    }


def test_help_takes_a_moment():
    def seconds():  # of CPU time, which other programs do not lengthen
        start = sum(os.times()[2:4])
        run(*SCRIPT, "--help")
        return sum(os.times()[2:4]) - start

    assert min(seconds() for _ in range(5)) < 0.3


@pytest.mark.parametrize(
    "program",
    [
        (*MODULE, "env"),
        (sys.executable, "train_net.py", "--config-file", "none.yaml"),
        (sys.executable, "demo/demo.py", "--config-file", "none.yaml", "--input", "none.jpg"),
    ],
    ids=["command", "train_net", "demo"],
)
@pytest.mark.parametrize(
    ("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_sleep_while_they_wait(program, given, policy):
    free = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    # With this variable, the OpenMP library itself prints the settings that it works with
    result = run(*program, env=free | given | {"OMP_DISPLAY_ENV": "true"})
    assert f"OMP_WAIT_POLICY = '{policy}'" in result.stderr


@pytest.mark.parametrize("program", [SCRIPT, MODULE], ids=["script", "module"])
def test_verbs_have_the_models_registered(program):
    result = run(*program, "zoo", "show", "coco/instance-segmentation/maskformer2_R50_bs16_50ep")
    assert result.returncode == 0, result.stderr
    assert "44.0 million" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["zoo", "show", "nonsense"], 2, "mask2former zoo: error: no config is named 'nonsense'"),
        (["check", "--data", "nowhere"], 1, "mask2former check: error: nowhere: there is no such"),
        (["check", "--dta", "x"], 2, "mask2former check: error: the following arguments are"),
        (["chek"], 2, "mask2former: error: argument VERB: invalid choice: 'chek'"),
    ],
)
def test_mistakes_are_reported_in_one_line(arguments, status, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(message)


def test_every_verb_has_help_of_one_line():
    text = argument_parser().format_help()
    assert all(f"\n    {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mask2former e", {"evaluate", "export", "env"}),
        ("mask2former predict --thr", {"--threshold"}),
        ("mask2former train --task ", {"panoptic", "instance", "semantic"}),
        ("mask2former zoo ", {"list", "show", "download"}),
    ],
)
def test_completion(line, expected, tmp_path):
    pytest.importorskip("argcomplete")
    variables = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    run(*SCRIPT, env={**os.environ, **variables})
    words = {word.strip() for word in (tmp_path / "words").read_text().splitlines()}
    assert {word for word in words if word not in ("-h", "--help")} == expected
