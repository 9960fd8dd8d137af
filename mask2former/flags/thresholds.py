"""The flags that find thresholds in an evaluation."""

from __future__ import annotations

import argparse


def add_threshold_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--find-thresholds`` and ``--wanted-precision``."""
    parser.add_argument(
        "--find-thresholds",
        action="store_true",
        help="find the lowest score of each class to show, for the highest F1, and store them with "
        "the model",
    )
    parser.add_argument(
        "--wanted-precision",
        type=_precision,
        metavar="P",
        help="with --find-thresholds: how much of what is shown is right, such as 0.9",
    )


def _precision(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
