"""`train_net.py` in several processes: what is killed, stopped or wrong ends all of them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import QUICKSTART, REPOSITORY, TINY

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the processes would need GPUs of their own"
)

SCRIPT = [str(REPOSITORY / "train_net.py"), "--config-file", str(QUICKSTART)]
TWO = [sys.executable, *SCRIPT, "--num-gpus", "2", "--dist-url", "auto"]
ENDLESS = ["SOLVER.MAX_ITER", "100000", "SOLVER.STEPS", "(90000,)"]


class Run:
    """A command that writes its output to a file, which takes any amount of it."""

    def __init__(self, command, datasets, out, *arguments):
        flags = [argument for argument in arguments if argument.startswith("--")]
        keys = [*TINY, "OUTPUT_DIR", out, *(a for a in arguments if a not in flags)]
        out.mkdir(exist_ok=True)
        self._log = out / "everything.txt"
        with self._log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *flags, *map(str, keys)],
                env={**os.environ, "DETECTRON2_DATASETS": str(datasets)},
                cwd=REPOSITORY,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def output(self):
        return self._log.read_text()

    def wait_until(self, condition):
        while not condition():
            assert self.process.poll() is None, self.output()
            time.sleep(0.05)

    def train(self, seconds=2):
        self.wait_until(lambda: "Starting training" in self.output())
        time.sleep(seconds)

    def end(self, seconds):
        return self.process.wait(timeout=seconds), self.output()

    def trainers(self):
        """The processes that train, in the order in which they were started."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in found}
        return [p for p, line in lines.items() if "spawn_main" in line or "train_net.py" in line]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_a_message(datasets, tmp_path, victim):
    running = Run(TWO, datasets, tmp_path, *ENDLESS)
    running.train()
    pids = running.trainers()
    assert len(pids) == 2
    os.kill(pids[victim], signal.SIGKILL)
    status, out = running.end(60)
    assert status == 1
    assert "Traceback" not in out
    assert f"error: process {victim} (pid {pids[victim]}) was killed by SIGKILL" in out
    assert not [pid for pid in pids if is_running(pid)]


def test_a_signal_stops_all_processes_after_a_checkpoint(datasets, tmp_path):
    running = Run(TWO, datasets, tmp_path, *ENDLESS)
    running.train()
    running.process.send_signal(signal.SIGTERM)
    status, out = running.end(60)
    assert status == 128 + signal.SIGTERM, out
    assert "Traceback" not in out
    (checkpoint,) = tmp_path.glob("model_*.pth")
    iteration = torch.load(checkpoint, weights_only=True)["iteration"]
    more = ["--resume", "SOLVER.MAX_ITER", str(iteration + 2)]
    status, out = Run(TWO, datasets, tmp_path, *more).end(300)
    assert status == 0
    assert f"Starting training from iteration {iteration + 1}" in out


def test_processes_end_with_the_one_that_started_them(datasets, tmp_path):
    running = Run(TWO, datasets, tmp_path, *ENDLESS)
    running.train()
    pids = running.trainers()
    running.process.kill()
    end = time.monotonic() + 60
    while any(map(is_running, pids)):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert [*tmp_path.glob("model_*.pth")], "they had time to save"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["SOLVER.IMS_PER_BATCH", "3"], "multiple of the number of processes, 2"),
        (["MODEL.WEIGHTS", "missing.pth"], "missing.pth"),
        (["SOLVER.BASE_LR", "-1"], "SOLVER.BASE_LR"),
    ],
)
def test_a_mistake_is_reported_once(datasets, tmp_path, keys, message):
    status, out = Run(TWO, datasets, tmp_path, *keys).end(120)
    assert status == 1
    assert "Traceback" not in out
    assert len(re.findall(r"^error: ", out, re.MULTILINE)) == 1
    assert message in out


def test_an_address_in_use_is_one_line(datasets, tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, *SCRIPT, "--num-gpus", "2", f"--dist-url={url}"]
        status, out = Run(command, datasets, tmp_path).end(120)
    assert status == 1
    assert "Traceback" not in out
    assert f"cannot join the others at {url}" in out


def torchrun(*options):
    return [sys.executable, "-m", "torch.distributed.run", *options, *SCRIPT, "--resume"]


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


NO_STATISTICS = ("MODEL.RESNETS.NORM", "FrozenBN")  # as the tests of equal weights need


def test_torchrun_restarts_a_killed_worker(datasets, tmp_path):
    keys = ["SOLVER.MAX_ITER", "30", "SOLVER.CHECKPOINT_PERIOD", "10", *NO_STATISTICS]
    whole = Run([sys.executable, *SCRIPT], datasets, tmp_path / "whole", *keys)
    assert whole.end(300)[0] == 0
    command = torchrun("--nproc-per-node=2", "--max-restarts=2", "--standalone")
    running = Run(command, datasets, tmp_path / "run", *keys)
    running.wait_until((tmp_path / "run/model_0000009.pth").exists)
    os.kill(running.trainers()[1], signal.SIGKILL)
    status, out = running.end(300)
    assert status == 0
    assert "Resuming from" in out
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(
            weights(tmp_path / "run")[name], value, rtol=1e-3, atol=1e-3, msg=name
        )
