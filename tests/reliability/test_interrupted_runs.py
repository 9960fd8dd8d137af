"""`train_net.py` as a process: signals, locks, full disks, and folders that hold a run."""

import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from support import QUICKSTART, REPOSITORY, TINY

TRAIN_NET = [sys.executable, str(REPOSITORY / "train_net.py"), "--config-file", str(QUICKSTART)]
ENDLESS = ["SOLVER.MAX_ITER", 100000, "SOLVER.STEPS", "(90000,)"]


def start(datasets, out, *arguments, **options):
    flags = [argument for argument in arguments if argument == "--resume"]
    keys = [*TINY, "OUTPUT_DIR", out, *(a for a in arguments if a not in flags)]
    return subprocess.Popen(
        [*TRAIN_NET, *flags, *map(str, keys)],
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets)},
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def wait_for_iteration(process):
    """Read the log until training has begun, and let some iterations pass."""
    for line in process.stdout:
        if "Starting training" in line:
            time.sleep(3)
            return
    pytest.fail(process.communicate()[1])


def finish(process):
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in out + err
    return process.returncode, out, err.strip()


def test_a_run_is_stopped_and_refused_and_locked_and_resumed(datasets, tmp_path):
    out = tmp_path / "run"
    running = start(datasets, out, *ENDLESS, "SEED", 5)
    wait_for_iteration(running)
    status, _, err = finish(start(datasets, out, *ENDLESS, "--resume"))
    assert status == 1
    assert f"process {running.pid} is training in {out}" in err
    running.send_signal(signal.SIGTERM)
    assert finish(running)[0] == 143
    (checkpoint,) = out.glob("model_*.pth")
    iteration = torch.load(checkpoint, weights_only=True)["iteration"]
    assert checkpoint.name == f"model_{iteration:07d}.pth"

    status, _, err = finish(start(datasets, out))
    assert status == 1
    assert "--resume" in err
    assert f"OUTPUT_DIR {out}_2" in err
    assert [*out.glob("model_*.pth")] == [checkpoint]

    more = ["--resume", "SOLVER.MAX_ITER", iteration + 2, "SEED", 6, "SOLVER.BASE_LR", 0.5]
    status, log, _ = finish(start(datasets, out, *more))
    assert status == 0
    assert f"Resuming from {checkpoint}" in log
    assert f"Starting training from iteration {iteration + 1}" in log
    log = re.sub(r"\x1b\[\d*m", "", log)
    assert "SEED stays 5" in log
    assert "SOLVER.BASE_LR stays 0.001, the value of the resumed checkpoint" in log
    assert (out / "model_final.pth").exists()


def test_a_second_signal_ends_at_once(datasets, tmp_path):
    running = start(datasets, tmp_path, *ENDLESS, "SOLVER.ACCUMULATE_STEPS", 1000)
    wait_for_iteration(running)
    running.send_signal(signal.SIGINT)
    time.sleep(1)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=10) == -signal.SIGINT
    assert not [*tmp_path.glob("model_*.pth")]


def test_a_full_disk_keeps_the_last_checkpoint(datasets, tmp_path):
    whole = start(datasets, tmp_path, "SOLVER.MAX_ITER", 1)
    assert finish(whole)[0] == 0
    size = (tmp_path / "model_final.pth").stat().st_size

    def limit():  # writing beyond it fails as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    status, _, err = finish(start(datasets, tmp_path, "--resume", preexec_fn=limit))
    assert status == 1
    assert "cannot save a checkpoint" in err.splitlines()[-1]
    assert not [path for path in tmp_path.glob(".*") if path.name != ".lock"]
    status, log, _ = finish(start(datasets, tmp_path, "--resume"))
    assert status == 0
    assert "Starting training from iteration 1" in log


def test_a_folder_that_cannot_be_made_is_one_line(datasets, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = finish(start(datasets, tmp_path / "file" / "run"))
    assert status == 1
    assert err.splitlines()[-1].startswith("error: ")
    assert "file/run" in err
