"""The flag of the precision that a model computes with."""

from __future__ import annotations

import argparse

PRECISIONS = ("fp32", "bf16", "fp16", "auto")


def add_precision(parser: argparse.ArgumentParser, default: str = "fp32") -> None:
    """Add ``--precision``.

    Args:
        parser: of a command.
        default: what holds without the flag, in words.
    """
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        metavar="TYPE",
        help=f"fp32, bf16, fp16 (on GPUs) or auto, the fastest (default: {default})",
    )
