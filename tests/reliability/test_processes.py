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
    end = time.monotonic() + 180
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


NO_STATISTICS = ("MODEL.RESNETS.NORM", "FrozenBN")  # as the tests of equal weights need


def weights(path):
    state = torch.load(path, weights_only=True)["model"]
    return torch.cat([value.flatten().float() for value in state.values()])


def assert_same_course(folder, whole):
    """Compare the final weights. Rounding grows during training, but other images differ more."""
    wanted = weights(whole / "model_final.pth")
    course = (wanted - weights(whole / "model_0000009.pth")).norm()
    assert (weights(folder / "model_final.pth") - wanted).norm() < course / 5


@pytest.fixture
def whole(datasets, tmp_path):
    """The folder of a run of 30 iterations by one process, and its settings."""
    keys = ["SOLVER.MAX_ITER", "30", "SOLVER.CHECKPOINT_PERIOD", "10", *NO_STATISTICS]
    run = Run([sys.executable, *SCRIPT], datasets, tmp_path / "whole", *keys)
    assert run.end(300)[0] == 0
    return tmp_path / "whole", keys


def test_torchrun_restarts_a_killed_worker(datasets, tmp_path, whole):
    command = torchrun("--nproc-per-node=2", "--max-restarts=2", "--standalone")
    running = Run(command, datasets, tmp_path / "run", *whole[1])
    running.wait_until((tmp_path / "run/model_0000009.pth").exists)
    os.kill(running.trainers()[1], signal.SIGKILL)
    status, out = running.end(300)
    assert status == 0
    assert "Resuming from" in out
    assert_same_course(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_torchrun_goes_on_with_fewer_processes(datasets, tmp_path, whole):
    """Two agents with one process each; one of them is lost with its process."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"

    def agent(out, is_host):
        command = torchrun(
            *("--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d"),
            f"--rdzv-endpoint={endpoint}",
            f"--rdzv-conf=is_host={is_host},join_timeout=60,last_call_timeout=5",
        )
        return Run(command, datasets, out, *keys, "OUTPUT_DIR", str(tmp_path / "run"))

    keys = whole[1]
    first, second = agent(tmp_path / "first", 1), agent(tmp_path / "second", 0)
    first.wait_until((tmp_path / "run/model_0000009.pth").exists)
    assert "rank1" in " ".join(path.name for path in (tmp_path / "run").glob("log.txt*"))
    (worker,) = second.trainers()
    second.process.kill()
    os.kill(worker, signal.SIGKILL)
    status, out = first.end(300)
    assert status == 0
    assert "Resuming from" in out
    assert_same_course(tmp_path / "run", whole[0])


def test_submitit_starts_the_processes(datasets, tmp_path):
    pytest.importorskip("submitit")
    submit = [sys.executable, str(REPOSITORY / "tools/submit_slurm.py"), "--local"]
    submit += ["--gpus-per-node=2", f"--logs={tmp_path}/logs", "--", *SCRIPT[1:]]
    status, out = Run(submit, datasets, tmp_path / "run").end(300)
    assert status == 0, out
    assert {"model_final.pth", "log.txt.rank1"} <= {p.name for p in (tmp_path / "run").iterdir()}


@pytest.fixture
def two_hosts():
    """The names of two network namespaces, as two machines with a cable between them."""
    names = [f"mask2former{i}_{os.getpid()}" for i in range(2)]
    ends = [f"m2f{i}_{os.getpid()}" for i in range(2)]
    commands = [f"ip netns add {name}" for name in names]
    commands.append(f"ip link add {ends[0]} type veth peer name {ends[1]}")
    for i, (name, end) in enumerate(zip(names, ends, strict=True)):
        commands += [
            f"ip link set {end} netns {name}",
            f"ip -n {name} addr add 10.99.0.{i + 1}/24 dev {end}",
            f"ip -n {name} link set lo up",
            f"ip -n {name} link set {end} up",
        ]
    try:
        for command in commands:
            if subprocess.run(command.split(), capture_output=True, check=False).returncode:
                pytest.skip("network namespaces need root and the command ip")
        yield list(zip(names, ends, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_machines_train_like_one_process(datasets, tmp_path, whole, two_hosts):
    def machine(rank, out, *keys):
        name, end = two_hosts[rank]
        command = ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={end}"]
        command += [sys.executable, *SCRIPT, "--num-gpus=1", "--num-machines=2"]
        command += [f"--machine-rank={rank}", "--dist-url=tcp://10.99.0.1:29400"]
        return Run(command, datasets, out, *keys)

    runs = [machine(rank, tmp_path / f"machine{rank}", *whole[1]) for rank in range(2)]
    assert [run.end(300)[0] for run in runs] == [0, 0]
    assert_same_course(tmp_path / "machine0", whole[0])

    runs = [machine(rank, tmp_path / f"endless{rank}", *ENDLESS) for rank in range(2)]
    runs[0].train()
    (victim,) = runs[1].trainers()
    os.kill(victim, signal.SIGKILL)
    for rank, wanted in ((1, "was killed by SIGKILL"), (0, "lost its connection")):
        status, out = runs[rank].end(60)
        assert status == 1
        assert wanted in out
        assert "Traceback" not in out
