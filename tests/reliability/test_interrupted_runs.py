"""`train_net.py` as a process: signals, locks, full disks, and folders that hold a run."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import ClassVar

import pytest
import torch
import warm_runs
from support import QUICKSTART, REPOSITORY, TINY

ENDLESS = ["SOLVER.MAX_ITER", 100000, "SOLVER.STEPS", "(90000,)"]


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    for run in Run.started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.process.join()
    Run.started.clear()


class Run:
    """A run that has started; `log` is what it prints."""

    started: ClassVar[list] = []

    def __init__(self, datasets, out, *arguments, **options):
        flags = [argument for argument in arguments if argument == "--resume"]
        keys = [*TINY, "OUTPUT_DIR", out, *(a for a in arguments if a not in flags)]
        command = ["--config-file", QUICKSTART, *flags, *keys]
        self._log = datasets / f"run_{time.monotonic_ns()}.log"
        self.process = warm_runs.start(list(map(str, command)), self._log, datasets, **options)
        self.pid = self.process.pid
        self.started.append(self)

    @property
    def log(self):
        text = self._log.read_text() if self._log.exists() else ""
        return re.sub(r"\x1b\[\d*m", "", text)

    def wait_for_iteration(self):
        """Wait until training has begun, and let some iterations pass."""
        until = time.monotonic() + 180
        while "Starting training" not in self.log:
            assert self.process.is_alive() and time.monotonic() < until, self.log
            time.sleep(0.1)
        time.sleep(1)

    def wait_for_metrics(self):
        """Wait until metrics were written twice, and until the steps after that."""
        until = time.monotonic() + 180
        while len(re.findall("eta: .*iter: ", self.log)) < 2:
            assert self.process.is_alive() and time.monotonic() < until, self.log
            time.sleep(0.02)
        time.sleep(0.1)

    def finish(self, seconds=180):
        """Wait for the end, and return the status and the last line of the log."""
        self.process.join(seconds)
        log = self.log
        assert not self.process.is_alive(), log[-3000:]
        assert "Traceback" not in log, log[log.index("Traceback") :]
        return self.process.exitcode, log.splitlines()[-1]


def checkpoints(folder):
    return sorted(folder.glob("model_*.pth"))


def hidden(folder):
    return {path.name for path in folder.glob(".*")}


def test_a_run_is_stopped_and_refused_and_locked_and_resumed(datasets, tmp_path):
    out = tmp_path / "run"
    running = Run(datasets, out, *ENDLESS, "SEED", 5)
    running.wait_for_iteration()
    status, error = Run(datasets, out, *ENDLESS, "--resume").finish()
    assert status == 1
    assert f"process {running.pid} is training in {out}" in error
    os.kill(running.pid, signal.SIGTERM)
    assert running.finish()[0] == 143
    (checkpoint,) = checkpoints(out)
    iteration = torch.load(checkpoint, weights_only=True)["iteration"]
    assert checkpoint.name == f"model_{iteration:07d}.pth"
    metrics = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert metrics[-1]["iteration"] == iteration

    status, error = Run(datasets, out).finish()
    assert status == 1
    assert "--resume" in error
    assert f"another folder, such as {out}_2" in error
    assert checkpoints(out) == [checkpoint]

    more = ["--resume", "SOLVER.MAX_ITER", iteration + 2, "SEED", 6, "SOLVER.BASE_LR", 0.5]
    resumed = Run(datasets, out, *more)
    assert resumed.finish()[0] == 0
    log = resumed.log
    assert f"Resuming from {checkpoint}" in log
    assert f"Starting training from iteration {iteration + 1}" in log
    assert "SEED stays 5" in log
    assert "SOLVER.BASE_LR stays 0.001, the value of the resumed checkpoint" in log
    assert (out / "model_final.pth").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_run(datasets, tmp_path, number):
    running = Run(datasets, tmp_path, *ENDLESS, "DATALOADER.NUM_WORKERS", 2)
    running.wait_for_iteration()
    os.killpg(running.pid, number)
    assert running.finish()[0] == 128 + number
    assert len(checkpoints(tmp_path)) == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)  # no worker is left


def test_a_signal_during_the_evaluation(datasets, tmp_path):
    keys = ["DATALOADER.NUM_WORKERS", 2, "SOLVER.MAX_ITER", 1, "INPUT.MIN_SIZE_TEST", 1600]
    running = Run(datasets, tmp_path, *keys, "INPUT.MAX_SIZE_TEST", 1600)
    until = time.monotonic() + 180
    log = tmp_path / "log.txt"  # the console says what an evaluation found
    while not log.exists() or "Start inference" not in log.read_text():
        assert time.monotonic() < until, running.log
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGTERM)
    assert running.finish()[0] == 143
    assert [path.name for path in checkpoints(tmp_path)] == [
        "model_0000000.pth",
        "model_final.pth",
    ]


def test_a_second_signal_ends_at_once(datasets, tmp_path):
    running = Run(datasets, tmp_path, *ENDLESS, "SOLVER.ACCUMULATE_STEPS", 1000)
    running.wait_for_iteration()
    os.kill(running.pid, signal.SIGINT)
    time.sleep(1)
    assert running.process.is_alive()
    os.kill(running.pid, signal.SIGINT)
    assert running.finish(seconds=10)[0] == -signal.SIGINT
    assert not checkpoints(tmp_path)


def test_short_writes_keep_the_last_checkpoint(datasets, tmp_path):
    assert Run(datasets, tmp_path, "SOLVER.MAX_ITER", 1).finish()[0] == 0
    size = (tmp_path / "model_final.pth").stat().st_size
    status, error = Run(datasets, tmp_path, "--resume", file_limit=size // 2).finish()
    assert status == 1
    assert "cannot save a checkpoint" in error
    assert hidden(tmp_path) == {".lock"}
    resumed = Run(datasets, tmp_path, "--resume")
    assert resumed.finish()[0] == 0
    assert "Starting training from iteration 1" in resumed.log


@pytest.fixture
def disk(tmp_path):
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("left", [0, 100_000, 1_000_000])
def test_a_full_disk_keeps_the_last_checkpoint(datasets, disk, left):
    out = disk / "run"
    assert Run(datasets, out, "SOLVER.MAX_ITER", 1).finish()[0] == 0
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    if left:
        os.truncate(filler, filler.stat().st_size - left)
    status, error = Run(datasets, out, "--resume").finish()
    assert status == 1
    assert error.startswith("error: ") and "No space left on device" in error
    assert hidden(out) == {".lock"}
    filler.unlink()
    resumed = Run(datasets, out, "--resume")
    assert resumed.finish()[0] == 0
    assert "Starting training from iteration 1" in resumed.log


def test_a_read_only_folder_is_one_line(datasets, disk):
    out = disk / "run"
    assert Run(datasets, out, "SOLVER.MAX_ITER", 1).finish()[0] == 0
    running = Run(datasets, out, *ENDLESS, "--resume", "SOLVER.CHECKPOINT_PERIOD", 100)
    running.wait_for_iteration()
    # as when a disk has failed: open files too cannot be written to
    subprocess.run(["mount", "-o", "remount,size=4k", str(disk)], check=False)
    kept = checkpoints(out)
    (disk / "file").write_bytes(b"")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=False)
    again = Run(datasets, out, "--resume")
    status, error = again.finish()
    assert status == 1
    assert error.startswith("error: ")
    os.kill(running.pid, signal.SIGKILL)
    assert set(kept) <= set(checkpoints(out))


def test_a_run_whose_folder_is_gone_saves_its_weights_there_anew(datasets, tmp_path):
    out = tmp_path / "run"
    running = Run(datasets, out, *ENDLESS)
    running.wait_for_iteration()
    out.rename(tmp_path / "moved")
    status, error = running.finish()
    assert status == 1
    assert error.startswith(f"error: {out} was deleted, moved or replaced during training")
    (checkpoint,) = checkpoints(out)
    iteration = int(checkpoint.stem[-7:])
    assert error.endswith(f"iteration {iteration} are saved there anew: continue with --resume")
    resumed = Run(datasets, out, "--resume", "SOLVER.MAX_ITER", iteration + 2)
    assert resumed.finish()[0] == 0
    assert f"Resuming from {checkpoint}" in resumed.log
    assert {"config.yaml", "metadata.json", "model_final.pth"} <= set(os.listdir(out))


def test_a_run_leaves_a_folder_to_the_one_that_has_it_now(datasets, tmp_path):
    out = tmp_path / "run"
    first = Run(datasets, out, *ENDLESS)
    first.wait_for_metrics()
    os.kill(first.pid, signal.SIGSTOP)
    out.rename(tmp_path / "moved")
    assert Run(datasets, out).finish()[0] == 0
    written = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    os.kill(first.pid, signal.SIGCONT)
    status, error = first.finish()
    assert status == 1
    assert error.endswith("It belongs to another run now: nothing is saved")
    assert written == {path: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_a_folder_that_cannot_be_made_is_one_line(datasets, tmp_path):
    (tmp_path / "file").touch()
    status, error = Run(datasets, tmp_path / "file" / "run").finish()
    assert status == 1
    assert error.startswith("error: ")
    assert "file/run" in error


def test_a_diverging_run_is_one_line_and_its_step_is_replayed(datasets, tmp_path):
    keys = ["SOLVER.BASE_LR", 1e30, "SOLVER.CHECKPOINT_PERIOD", 1]
    diverging = Run(datasets, tmp_path, *keys)
    status, error = diverging.finish()
    assert status == 1
    assert error.startswith("error: ")
    assert "synthetic_shapes/train/0000" in error  # the images of the iteration
    for path in checkpoints(tmp_path):
        model = torch.load(path, weights_only=True)["model"]
        assert all(value.isfinite().all() for value in model.values())
    (command,) = re.findall(r"python (-m mask2former.cli.replay .*)", diverging.log)
    replayed = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert replayed.returncode == 0, replayed.stderr
    assert "The first output that is not finite is that of backbone." in replayed.stdout
    assert "Traceback" not in replayed.stderr
