"""The flags that set how long a run trains."""

from __future__ import annotations

import argparse

LENGTHS = ("iterations", "epochs")


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
