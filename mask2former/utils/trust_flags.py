"""The flags that let files run code."""

from __future__ import annotations

import argparse


def add_trust_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-unsafe-config`` and ``--allow-unsafe-weights``."""
    for files, what in (("config", "YAML tags"), ("weights", "pickles")):
        parser.add_argument(
            f"--allow-unsafe-{files}",
            action="store_true",
            help=f"let {what} run code: only for files that you trust",
        )
