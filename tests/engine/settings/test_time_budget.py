"""Runs that end within a given time."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from support import QUICKSTART, REPOSITORY, TINY

from mask2former import load_config
from mask2former.cli.train import main
from mask2former.data.split import Split
from mask2former.engine import launch
from mask2former.engine.data_flags import register_run_datasets
from mask2former.engine.settings.choices import LENGTH_KEYS
from mask2former.engine.settings.time_budget import longest, measure
from mask2former.engine.setup import argument_parser
from mask2former.flags.length import parse_time
from mask2former.utils.resources import process_age

GIVEN = dict(zip(TINY[::2], TINY[1::2], strict=True))
for key in LENGTH_KEYS:
    GIVEN.pop(key, None)
OPTIONS = [str(word) for pair in GIVEN.items() for word in pair]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("1h 2m 3s", 3723)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "1m1h", "-5s", "1e3s", "nan"])
def test_what_is_not_a_time(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 30m, 1h30m or 90s"):
        parse_time(text)


@pytest.mark.parametrize("left", [0.0, 1.0, 9.99, 10.0, 55.5, 1234.0])
def test_the_longest_run_in_a_time(left):
    def seconds(n):
        return 0.7 * n + 5 * -(-n // 10)

    expected = max((n for n in range(3000) if n == 0 or seconds(n) <= left), default=0)
    assert longest(seconds, left) == expected


def test_age_of_a_process():
    file = str(REPOSITORY / "mask2former/utils/resources.py")
    code = f"import runpy, time; time.sleep(1.5); print(runpy.run_path({file!r})['process_age']())"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1.4 < float(done.stdout) <= time.monotonic() - start + 0.1
    assert process_age() > 0


def test_a_budget_that_is_too_short(shapes, tmp_path, capsys):
    arguments = ["--config-file", str(QUICKSTART), "--data", str(shapes), *OPTIONS]
    with pytest.raises(SystemExit) as end:
        main(["--time-budget", "1s", *arguments, "OUTPUT_DIR", str(tmp_path / "run")])
    assert "--time-budget 0:00:01 is too short: getting ready took" in str(end.value)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_measurement_writes_nothing(shapes, tmp_path):
    command = [sys.executable, REPOSITORY / "train_net.py", "--config-file", QUICKSTART]
    command += ["--data", shapes, "--time-budget", "2h", *OPTIONS, "OUTPUT_DIR", tmp_path / "run"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while "Measuring the speed" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted before training began; nothing was written"
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def train_net(*arguments):
    command = [sys.executable, str(REPOSITORY / "train_net.py"), "--config-file", str(QUICKSTART)]
    start = time.monotonic()
    done = subprocess.run(
        [*command, *map(str, arguments), *OPTIONS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, time.monotonic() - start


def weights_of(folder):
    return torch.load(folder / "model_final.pth", weights_only=False)["model"]


def _measure(words, folder):
    args = argument_parser().parse_args(words)
    cfg = load_config(args.config_file, args.opts)
    register_run_datasets(cfg, args)
    speed = measure(cfg, 1.0)
    Path(folder, f"{comm.get_rank()}.json").write_text(json.dumps(asdict(speed)))


def test_processes_agree_on_the_speed(shapes, tmp_path):
    """One of them has two images to evaluate and one has one; neither waits for the other."""
    names = sorted(path.name for path in (shapes / "train").iterdir())
    Split(tuple(names[3:]), tuple(names[:3])).save(tmp_path)
    words = ["--config-file", QUICKSTART, "--split", tmp_path / "split.json"]
    words += ["--train-images", shapes / "train"]
    words += ["--train-json", shapes / "annotations/instances_train.json", *OPTIONS]
    launch(_measure, 2, dist_url="auto", args=([str(word) for word in words], str(tmp_path)))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert all(seconds > 0 for seconds in first.values())


@pytest.mark.slow
def test_a_run_takes_its_time_and_is_like_any_other_of_its_length(shapes, tmp_path):
    """Twice the speed while it is measured, or half, is allowed: others use the machine too."""
    budget = 45
    data = ["--data", shapes]
    one = tmp_path / "one"
    out, seconds = train_net(*data, "--time-budget", f"{budget}s", "OUTPUT_DIR", one)
    assert 0.5 * budget < seconds < 1.5 * budget
    cfg = load_config(str(one / "config.yaml"))
    iterations = cfg.SOLVER.MAX_ITER
    assert f"0:00:45 fit {iterations} iterations" in out
    assert 0 < cfg.SOLVER.WARMUP_ITERS <= iterations / 2
    last = json.loads((one / "metrics.json").read_text().splitlines()[-1])
    assert last["iteration"] in (iterations - 1, iterations)

    # The steps that were timed leave no trace.
    two = tmp_path / "two"
    train_net(*data, "--iterations", iterations, "OUTPUT_DIR", two)
    first, second = weights_of(one), weights_of(two)
    assert all(torch.equal(first[name], second[name]) for name in first)

    # A resumed run keeps its length.
    (one / "model_final.pth").unlink()
    (one / "last_checkpoint").unlink()
    out, seconds = train_net(*data, "--resume", "--time-budget", f"{budget}s", "OUTPUT_DIR", one)
    assert "--time-budget set the length of this run when it began" in out
    resumed = load_config(str(one / "config.yaml"))
    assert (resumed.SOLVER, resumed.TEST) == (cfg.SOLVER, cfg.TEST)
    third = weights_of(one)
    assert all(torch.equal(first[name], third[name]) for name in first)
