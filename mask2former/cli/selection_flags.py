"""Command-line flags that keep some of what a model found."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..inference.selection import Selection
    from ..structures import Classes


def add_selection_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--class``, ``--max`` and ``--nms``."""
    selection = parser.add_argument_group("what to keep")
    selection.add_argument(
        "--class",
        dest="class_names",
        action="append",
        metavar="NAME[,NAME]",
        help="keep only these classes",
    )
    selection.add_argument(
        "--max",
        dest="most",
        type=int,
        metavar="N",
        help="keep the N instances or panoptic segments with the highest scores",
    )
    selection.add_argument(
        "--nms",
        dest="overlap",
        type=float,
        metavar="IOU",
        help="of instances of a class whose masks have a greater IoU, keep the best",
    )


def selection_of(args: argparse.Namespace, classes: Classes, task: str) -> Selection | None:
    """Return the selection that the flags of `add_selection_flags` describe, or None for all.

    Raises:
        ValueError: there is no such class, or the task does not have what a flag asks for.
    """
    from ..inference.selection import build_selection

    if (args.class_names, args.most, args.overlap) == (None, None, None):
        return None
    return build_selection(
        task, classes, names=args.class_names, most=args.most, overlap=args.overlap
    )
