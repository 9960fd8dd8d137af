"""What a run prints."""

import os
import subprocess
import sys

import pytest
from support import QUICKSTART, REPOSITORY, TINY


@pytest.fixture(scope="module")
def run(datasets, tmp_path_factory):
    """Return what one iteration prints, and the content of its log.txt."""
    folder = tmp_path_factory.mktemp("run")
    keys = [*TINY, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()", "OUTPUT_DIR", folder]
    command = [sys.executable, "train_net.py", "--config-file", QUICKSTART, *map(str, keys)]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets)}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, (folder / "log.txt").read_text()


def test_few_lines_come_before_the_first_iteration(run):
    printed, log = run
    lines = printed.splitlines()
    begin = next(i for i, line in enumerate(lines) if "Starting training" in line)
    assert begin <= 15  # the recipe's table, data and model of an own data set come on top
    assert any("SetCriterion" in line for line in log.splitlines())  # the model
    assert "BACKBONE_MULTIPLIER" in log  # the config
    assert not any("SetCriterion" in line for line in lines)
    assert f"more lines in {run_folder(printed)}/log.txt" in printed


def run_folder(printed):
    line = next(line for line in printed.splitlines() if "Full config saved to" in line)
    return line.rpartition(" ")[2].removesuffix("/config.yaml")


def test_counts_per_class_are_in_the_log(run):
    printed, log = run
    assert "Distribution of instances" in log
    assert "| triangle" in log.replace("|  triangle", "| triangle")
    assert "triangle" not in printed


def test_nothing_has_colours(run):
    printed, log = run
    assert "\x1b" not in printed
    assert "\x1b" not in log
