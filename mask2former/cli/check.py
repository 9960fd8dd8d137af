"""Check a folder of annotations and images, and list everything that is wrong with them.

The report names the file, the image id and the annotation or segment id of each problem, and counts
images, annotations and classes. The exit status is 1 if there are errors. Training makes the same
checks before it starts.

Examples:
  mask2former check --data my_data
  mask2former check --data my_data --task semantic --full-pixel-check
"""

from __future__ import annotations

import argparse

from .flags import add_data, recognised_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the data."""
    add_data(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was found and what is wrong with it."""
    from ..data.own_data import check_own_data

    found = recognised_data(args)
    print(found.summary(), flush=True)
    reports = check_own_data(found.train, found.val, pixels=args.pixel_check)
    if found.train is not None:
        from ..engine.settings.data_warnings import warnings_of_defaults

        for line in warnings_of_defaults(reports[0], args.task):
            print(line)
    return 0
