"""The flags that set how long a run trains."""

from __future__ import annotations

import argparse
import re

LENGTHS = ("iterations", "epochs", "time_budget")

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def add_length_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that set the length of a run."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--iterations",
        type=int,
        metavar="N",
        help="length of training; the schedule is scaled to it",
    )
    length.add_argument(
        "--epochs",
        type=float,
        metavar="N",
        help="length of training: how often each image is seen; the schedule is scaled to it",
    )
    length.add_argument(
        "--time-budget",
        type=parse_time,
        metavar="TIME",
        help="set the length so that the command takes this time, such as 30m, 1h30m or 90s; the "
        "speed is measured first, and the schedule is scaled to it",
    )


def parse_time(text: str) -> float:
    """Return the seconds of a time such as "1h30m".

    Raises:
        argparse.ArgumentTypeError: it is not a time.
    """
    match = _TIME.fullmatch(text.replace(" ", ""))
    if match is None or not any(match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30m, 1h30m or 90s")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds
