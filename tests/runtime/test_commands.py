"""How commands end: by a signal, and when nobody reads their output any more."""

import signal
import subprocess
import sys

PROGRAM = """
import sys, time
from pathlib import Path
from mask2former_runtime.commands import run_reporting_errors
from mask2former_runtime.files import moved_at_the_end

def work():
    with moved_at_the_end(Path(sys.argv[1])) as folder:
        (folder / "a").write_text("unfinished")
        print("begun", flush=True)
        time.sleep(60)

run_reporting_errors("test", work)
"""


def test_sigterm_leaves_nothing_unfinished(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert list(tmp_path.iterdir()) == []


def test_output_that_nobody_reads():
    program = """
import time
from mask2former_runtime.commands import run_reporting_errors

def work():
    print("first", flush=True)
    for _ in range(1000):
        print("more", flush=True)
        time.sleep(0.01)

run_reporting_errors("test", work)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""
