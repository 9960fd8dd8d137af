"""`mask2former find-lr`: a suggestion and a picture, and no other trace."""

import re

import pytest
from PIL import Image
from support import QUICKSTART, TINY

from mask2former.cli.find_lr import main as tool
from mask2former.cli.main import main

OPTIONS = [str(option) for option in TINY]
SWEEP = ["--steps", "16", "--range", "1e-5", "1"]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_verb(datasets, empty, capfd):
    data = ["--data", str(datasets / "synthetic_shapes"), "--task", "instance"]
    options = ["--model", "quickstart/instance", "--opts", *OPTIONS, "SOLVER.BASE_LR", "0.02"]
    assert main(["find-lr", *data, *SWEEP, *options]) == 0
    out = capfd.readouterr().out
    assert "quickstart/instance.yaml, on cpu" in out
    assert "The config has 2.0e-02" in out
    rate = float(re.search(r"Suggestion: SOLVER.BASE_LR (\S+),", out)[1])
    assert 1e-5 < rate < 1
    assert [path.name for path in empty.iterdir()] == ["learning_rates.png"]
    with Image.open("learning_rates.png") as picture:
        assert picture.format == "PNG" and picture.width > 600


def test_tool_takes_the_arguments_of_training(shapes, empty, capfd):
    arguments = ["--config-file", str(QUICKSTART), *SWEEP, "--output", "curve.svg"]
    assert tool([*arguments, *OPTIONS]) == 0
    assert "Suggestion: SOLVER.BASE_LR" in capfd.readouterr().out
    assert "<svg" in (empty / "curve.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--steps", "3"], 2, "3 steps: at least 10 are needed"),
        (["--range", "1", "0.1"], 2, "must be ten times the first"),
        (["--output", "curve.gif9"], 2, "a picture ends with .png"),
        (["--output", "nowhere/curve.png"], 2, "there is no folder nowhere"),
        (["--model", "R55"], 2, "no config is named 'R55'"),
        (["--data", "nowhere"], 1, "there is no such folder"),
    ],
)
def test_mistakes(datasets, empty, capsys, arguments, status, message):
    data = ["--data", str(datasets / "synthetic_shapes"), "--model", "quickstart/panoptic"]
    with pytest.raises(SystemExit) as exit_:
        main(["find-lr", *data, *arguments, "--opts", *OPTIONS])
    assert exit_.value.code == status
    assert message in capsys.readouterr().err
    assert not list(empty.iterdir())
