"""The mistakes of a user end a command with one line and an exit status."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
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
            file or the data cannot be used; 2 after any other `ValueError` or `ImportError`; 130
            after Ctrl-C.
    """
    try:
        return function(*arguments)
    except OSError as error:
        _exit(1, program, error)
    except (ValueError, ImportError) as error:
        from ..data.errors import DatasetError
        from ..inference.video import VideoError

        _exit(1 if isinstance(error, (DatasetError, VideoError)) else 2, program, error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _exit(status: int, program: str, error: Exception) -> NoReturn:
    print(f"{program}: error: {error}", file=sys.stderr)
    sys.exit(status)
