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


def test_work_goes_on_after_lines_that_nobody_reads(tmp_path):
    """Of both streams, as after `2>&1 | head`; what is printed at the end is not read either."""
    program = """
import sys
from pathlib import Path
from mask2former_runtime.commands import print_line, run_reporting_errors

def work():
    print_line("first")
    sys.stdin.read()
    print_line("more", sys.stderr)
    print_line("more")
    print("more", file=sys.stderr)
    Path(sys.argv[1]).write_text("finished")
    print("done")
    return int(sys.argv[2])

sys.exit(run_reporting_errors("test", work))
"""
    for status in (0, 1):
        command = [sys.executable, "-c", program, str(tmp_path / "a"), str(status)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, **pipes) as process:
            assert process.stdout.readline() == b"first\n"
            process.stdout.close()
            process.stdin.close()
            assert process.wait(30) == (status or 141)
        assert (tmp_path / "a").read_text() == "finished"
        (tmp_path / "a").unlink()


def test_the_last_lines_of_a_command_that_nobody_reads():
    """They are not printed before the command ends."""
    program = """
import sys
from mask2former_runtime.commands import run_reporting_errors
sys.exit(run_reporting_errors("test", lambda: print(sys.stdin.read()) or 0))
"""
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_a_stream_that_is_closed_from_the_beginning(tmp_path):
    """As after ``2>&- | true``."""
    program = """
import sys
from pathlib import Path
from mask2former_runtime.commands import print_line, run_reporting_errors

def work():
    sys.stdin.read()
    print_line("more")
    Path(sys.argv[1]).write_text("finished")
    return 0

assert sys.stderr is None
sys.exit(run_reporting_errors("test", work))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "a")]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.wait(30) == 141
    assert (tmp_path / "a").read_text() == "finished"
