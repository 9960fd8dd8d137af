"""Print versions, hardware and compilers, as a bug report needs them.

Examples:
  mask2former env > environment.txt
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: this verb has no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from ..collect_env import collect_env

    print(collect_env())
    return 0
