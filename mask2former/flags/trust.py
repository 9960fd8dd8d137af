"""The flags that let files run code."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

_CODE = {"config": "YAML tags", "weights": "pickles"}


def add_trust_flags(parser: argparse.ArgumentParser, kinds: Iterable[str] = tuple(_CODE)) -> None:
    """Add ``--allow-unsafe-config`` and ``--allow-unsafe-weights``, or one of them."""
    for files in kinds:
        parser.add_argument(
            f"--allow-unsafe-{files}",
            action="store_true",
            help=f"let {_CODE[files]} run code: only for files that you trust",
        )
