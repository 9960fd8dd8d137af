"""Data loading workers and signals."""

import os
import signal
import subprocess
import sys

import pytest
from support import SOURCES

# The workers are stopped, so that both signals are pending and become one, as on a busy machine.
EXITING = """
import os, signal, sys, threading, time
from torch.utils.data import TensorDataset
import torch
from mask2former.utils.workers import SignalSafeLoader

batches = iter(SignalSafeLoader(TensorDataset(torch.arange(1000)), num_workers=1))
next(batches)
(worker,) = map(int, open(f"/proc/self/task/{os.getpid()}/children").read().split())
os.kill(worker, signal.SIGSTOP)
os.system(f"kill -TERM {worker}")
print(worker, flush=True)
threading.Thread(target=os.system, args=(f"sleep 1; kill -CONT {worker}",), daemon=True).start()
sys.modules["kept"] = batches  # as by a traceback: nothing else ends the worker
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
def test_a_signal_from_elsewhere_does_not_hide_that_of_the_exiting_process():
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    ended = subprocess.run(
        [sys.executable, "-c", EXITING],
        env=environment, timeout=180, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), signal.SIGKILL)
