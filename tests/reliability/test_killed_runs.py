"""Whole training runs, killed again and again, end with the weights of a quiet run."""

import contextlib
import itertools
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import warm_runs
from support import QUICKSTART, TINY

from mask2former.checkpoint import read_checkpoint

SETTINGS = [
    *TINY,
    *("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_TO_KEEP", 2),
    *("TEST.EVAL_PERIOD", 3, "SOLVER.BEST_METRIC", "segm/AP"),
    *("SOLVER.EMA_DECAY", 0.9, "SOLVER.EARLY_STOPPING_PATIENCE", 9),
    *("TEST.VALIDATION_LOSS", True, "MODEL.MASK_FORMER.PILOTED.GROUPS", 2),
    *("SOLVER.ACCUMULATE_STEPS", 2),
]
SECONDS = 120.0  # for one run


class Runs:
    """Runs in one folder; each resumes the one before it."""

    def __init__(self, datasets: Path, folder: Path) -> None:
        self.folder = folder
        self.logs = (folder.with_suffix(f".{number}.log") for number in itertools.count())
        self.datasets = datasets

    def start(self, workers=0, kill_at=0):
        self.log = next(self.logs)
        arguments = ["--config-file", QUICKSTART, "--resume", *SETTINGS, "OUTPUT_DIR", self.folder]
        arguments += ["DATALOADER.NUM_WORKERS", workers]
        return warm_runs.start(list(map(str, arguments)), self.log, self.datasets, kill_at=kill_at)

    def finish(self, process):
        """Wait for the end, and return the exit status."""
        process.join(SECONDS)
        log = self.log.read_text() if self.log.exists() else ""
        # SIGTERM ends a run at once while it starts, before it has anything to save.
        assert process.exitcode in (0, -signal.SIGKILL, 143, -signal.SIGTERM), log[-3000:]
        if process.exitcode != -signal.SIGKILL:  # its workers may print as they end
            assert "Traceback" not in log, log[log.index("Traceback") :]
        return process.exitcode

    def weights(self):
        """Return the final weights, their average, and the best ones."""
        checkpoint = read_checkpoint(self.folder / "model_0000005.pth")
        final = read_checkpoint(self.folder / "model_final.pth")["model"]
        best = read_checkpoint(self.folder / "model_best.pth")["model"]
        average = read_checkpoint(self.folder / "model_final_ema.pth")["model"]
        averages = {
            **{f"checkpoint {name}": value for name, value in checkpoint["ema"]["values"].items()},
            **{f"file {name}": value for name, value in average.items()},
            **{f"final {name}": value for name, value in final.items()},
            **{f"best {name}": value for name, value in best.items()},
        }
        return {**checkpoint["model"], **averages}


def test_runs_killed_at_random_end_with_the_same_weights(datasets, tmp_path):
    kill_until_done(datasets, tmp_path, kills=3)


@pytest.mark.slow
def test_100_kills(datasets, tmp_path):
    kill_until_done(datasets, tmp_path, kills=int(os.environ.get("KILLS", 100)))


def kill_until_done(datasets, tmp_path, kills):
    draw = random.Random(kills)
    quiet = Runs(datasets, tmp_path / "quiet")
    quiet.finish(quiet.start())  # what is imported late is imported here
    since = time.monotonic()
    again = Runs(datasets, tmp_path / "again")
    again.finish(again.start())
    seconds = time.monotonic() - since
    (calls,) = map(int, re.findall(r"calls that change files: (\d+)", again.log.read_text()))
    expected = quiet.weights()
    assert all(torch.equal(value, expected[name]) for name, value in again.weights().items())

    ends: Counter[int] = Counter()
    runs = 0
    while ends[-signal.SIGKILL] < kills:
        run = Runs(datasets, tmp_path / f"killed_{runs}")
        runs += 1
        for _ in range(draw.randint(1, 5)):
            workers = draw.choice([0, 0, 0, 2])
            if draw.random() < 0.5:
                process = run.start(workers, kill_at=draw.randint(1, calls))
            else:
                process = run.start(workers)
                process.join(draw.uniform(0, seconds))
                if draw.random() < 0.7:
                    process.kill()
                else:  # the whole group, as a scheduler does
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGTERM)
            ends[run.finish(process)] += 1
        assert run.finish(run.start()) == 0
        assert {p.name for p in run.folder.iterdir() if p.suffix == ".pth"} == {
            *("model_0000004.pth", "model_0000005.pth", "model_final.pth", "model_best.pth"),
            "model_final_ema.pth",
        }
        assert not [*run.folder.glob(".*.????????")]
        found = run.weights()
        assert all(torch.equal(value, expected[name]) for name, value in found.items()), run.folder
        print(f"{dict(ends)} in {runs} runs, {seconds:.1f} s and {calls} calls per quiet run")
