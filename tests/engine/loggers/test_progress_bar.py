"""What a training run shows on a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from support import QUICKSTART, REPOSITORY, TINY


def run_on_a_terminal(datasets, *keys):
    """Train in a process whose streams are a terminal of 120 columns, and return what it shows."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [sys.executable, "train_net.py", "--config-file", str(QUICKSTART), *TINY, *keys]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=terminal,
        stderr=terminal,
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets)},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the process has ended
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait() == 0, shown.decode()[-3000:]
    return re.sub(r"\x1b\[[0-9;]*[mA-K]", "", shown.decode())


@pytest.mark.skipif(not hasattr(pty, "openpty"), reason="needs pseudo-terminals")
def test_a_bar_shows_losses_metric_and_time_left_and_the_log_has_the_lines(datasets, tmp_path):
    shown = run_on_a_terminal(
        datasets,
        *("SOLVER.MAX_ITER", 45, "TEST.EVAL_PERIOD", 40, "OUTPUT_DIR", tmp_path / "run"),
    )
    bars = re.findall(r"Training: [^\r\n]*", shown)
    last = bars[-1]
    assert "100%" in last and "45/45" in last
    assert re.search(r"loss [\d.]+, ce [\d.]+, mask [\d.]+, dice [\d.]+, segm/AP [\d.]+", last)
    assert any(re.search(r"<\d\d:\d\d", bar) for bar in bars)  # the time left
    assert "eta: " not in shown
    log = (tmp_path / "run/log.txt").read_text()
    assert len(re.findall(r"eta: .*total_loss", log)) == 3  # after 20, 40 and 45 iterations
    assert "Training: " not in log
    # A message begins on a line of its own.
    assert re.search(r"[\r\n]\[[^]]*\]: Saving checkpoint", shown)


def test_a_log_has_lines_and_no_bar(datasets, tmp_path):
    command = [sys.executable, "train_net.py", "--config-file", str(QUICKSTART), *TINY]
    command += ["OUTPUT_DIR", tmp_path / "run"]
    result = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets)},
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"eta: .*iter: 3 .*total_loss", result.stdout)
    assert "Training: " not in result.stdout + result.stderr
    assert "\r" not in result.stdout + result.stderr
