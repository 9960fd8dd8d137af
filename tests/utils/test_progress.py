"""Progress on a terminal and in a log."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from support import REPOSITORY

from mask2former.utils import progress
from mask2former.utils.progress import ResultLines, with_progress
from mask2former_runtime.text import clock

SLOW = """
import time
from mask2former.utils.progress import ResultLines, with_progress
for _ in with_progress(range(4), "Counting", unit="sheep"):
    time.sleep(0.15)
lines = ResultLines(4, "images")
for number in range(4):
    time.sleep(0.15)
    lines.add(f"result {number}")
lines.close()
"""


def on_terminal(code):
    """Run Python on a terminal and return what it writes there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 90, 0, 0))
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=REPOSITORY
    ) as process:  # fmt: skip
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(ours)
    assert process.returncode == 0
    return b"".join(parts).decode()


def test_a_terminal_shows_a_bar_with_the_time_left():
    text = on_terminal(SLOW)
    assert "Counting: 100%" in text
    assert "| 4/4 [" in text
    assert "75%" in text.split("result 2")[1]  # the bar stands below the lines
    assert [line for line in text.replace("\r", "\n").splitlines() if "result 3" in line]


def test_a_log_gets_a_line_now_and_then(monkeypatch, capfd):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    assert list(with_progress(range(3), "Counting", unit="sheep")) == [0, 1, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [f"Counting: {number}/3 sheep, ETA 0:00:00" for number in (1, 2, 3)]


def test_a_short_job_leaves_no_line_in_a_log(capfd):
    assert len(list(with_progress(range(1000), "Counting"))) == 1000
    assert capfd.readouterr() == ("", "")


def test_quiet(monkeypatch, capfd):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with with_progress(description="Counting", total=2, quiet=True) as bar:
        bar.update(2)
    assert capfd.readouterr() == ("", "")


def test_unknown_total_and_large_numbers(monkeypatch, capfd):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with with_progress(description="a.pth", unit="B", scale=True) as bar:
        bar.update(15_000_000)
    with with_progress(description="a.pth", total=30_000_000, unit="B", scale=True) as bar:
        bar.update(15_000_000)
    first, second = capfd.readouterr().err.splitlines()
    assert first == "a.pth: 15.0M/? B"
    assert second.startswith("a.pth: 15.0M/30.0M B, ETA ")


def test_lines_of_results_tell_the_time_left(capfd):
    lines = ResultLines(3, "images")
    lines.add("one")
    lines.add("broken", skipped=True)
    lines.add("three")
    lines.close()
    assert capfd.readouterr() == ("one, ETA 0:00:00\nthree\n", "broken\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (360_000, "100:00:00")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text
