"""The mistakes of a user end a command with one line and an exit status."""

from __future__ import annotations

import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn


def start_output() -> None:
    """Show the messages of this package, and print names of files of any bytes."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("mask2former").setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def run_reporting_errors(program: str, function: Callable[..., int], *arguments: Any) -> int:
    """Call a function and return its exit status; report the errors that a user can fix.

    Args:
        program: the name of the command, which begins the line on stderr.
        function: returns an exit status.
        arguments: of `function`.

    Raises:
        SystemExit: with status 1 after an `OSError`, a `DatasetError` or a `VideoError`, because a
            file or the data cannot be used; 2 after any other `ValueError`, an `ImportError` or a
            `FloatingPointError`; 130 after Ctrl-C, 143 after SIGTERM, and 141 after the program
            that read the output ended.
    """
    if threading.current_thread() is threading.main_thread():
        _end_on_sigterm()
    try:
        return function(*arguments)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        _exit(1, program, error)
    except (ValueError, ImportError, FloatingPointError) as error:
        from ..data.errors import DatasetError
        from ..inference.video import VideoError

        _exit(1 if isinstance(error, (DatasetError, VideoError)) else 2, program, error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _end_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does, so that unfinished files are removed."""
    owner = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner:
            sys.exit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # of a process that it has started
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)


def _is_unread() -> bool:
    """Return whether the program that read the output has ended."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # for errors alone
    return bool(poll.poll(0))


def _exit(status: int, program: str, error: Exception) -> NoReturn:
    print(f"{program}: error: {error}", file=sys.stderr)
    sys.exit(status)
