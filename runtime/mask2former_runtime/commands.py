"""What all commands have in common: mistakes of a user are one line and an exit status."""

from __future__ import annotations

import argparse
import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, TextIO

# The output streams that nobody reads any more, and which now go nowhere.
_silenced: list[TextIO] = []


def start_output(package: str) -> None:
    """Show the messages of a package, and print names of files of any bytes."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger(package).setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_line(line: str, stream: TextIO | None = None) -> None:
    """Print a line at once; if nobody reads it, what the command writes to files goes on.

    Args:
        line: what to print.
        stream: by default ``sys.stdout``.
    """
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        if not _silence_unread():
            raise


def run_reporting_errors(program: str, function: Callable[..., int], *arguments: Any) -> int:
    """Call a function and return its exit status; report the errors that a user can fix.

    Args:
        program: the name of the command, which begins the line on stderr.
        function: returns an exit status.
        arguments: of `function`.

    Raises:
        SystemExit: with status 1 after an `OSError`; 2, or what the error has as ``exit_status``,
            after a `ValueError`, an `ImportError` or a `FloatingPointError`; 130 after Ctrl-C, 143
            after SIGTERM, and 141 after the program that read the output ended.
    """
    if threading.current_thread() is threading.main_thread():
        _end_on_sigterm()
    try:
        status = function(*arguments)
        print(end="", flush=True)
        return status or (141 if _silenced else 0)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _silence_unread():
            sys.exit(141)
        _exit(1, program, error)
    except (ValueError, ImportError, FloatingPointError) as error:
        _exit(getattr(error, "exit_status", 2), program, error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def probability(text: str) -> float:
    """Return the value of a flag, from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _end_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does, so that unfinished files are removed."""
    owner = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner:
            sys.exit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # of a process that it has started
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)


def _silence_unread() -> bool:
    """Let output that nobody reads go nowhere; return whether there is such output."""
    # A stream that is closed from the beginning is None.
    unread = [stream for stream in (sys.stdout, sys.stderr) if stream and _is_unread(stream)]
    for stream in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    _silenced.extend(unread)
    return bool(unread)


def _is_unread(stream: TextIO) -> bool:
    """Return whether the program that read a stream has ended."""
    if not hasattr(select, "poll"):  # as on Windows
        return stream is sys.stdout
    poll = select.poll()
    poll.register(stream.fileno(), 0)  # for errors alone
    return bool(poll.poll(0))


def _exit(status: int, program: str, error: Exception) -> NoReturn:
    print(f"{program}: error: {error}", file=sys.stderr)
    sys.exit(status)
