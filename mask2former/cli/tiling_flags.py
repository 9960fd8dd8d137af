"""Command-line flags that divide large images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..inference.tiling.grid import Tiling


def add_tiling_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--tile`` and ``--overlap``."""
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="look at large images in tiles of this side, and join what is found",
    )
    parser.add_argument(
        "--overlap",
        dest="tile_overlap",
        type=float,
        metavar="SHARE",
        help="least share of a tile that the next one has too, 0 to 0.9 (default: 0.2)",
    )


def tiling_of(args: argparse.Namespace) -> Tiling | None:
    """Return how the flags of `add_tiling_flags` divide images, or None if they do not.

    Raises:
        ValueError: a number is out of range, or only the overlap is given.
    """
    from ..inference.tiling.grid import DEFAULT_OVERLAP, Tiling

    if args.tile is None:
        if args.tile_overlap is not None:
            raise ValueError("--overlap is that of tiles: add --tile, such as --tile 1024")
        return None
    return Tiling(args.tile, DEFAULT_OVERLAP if args.tile_overlap is None else args.tile_overlap)
