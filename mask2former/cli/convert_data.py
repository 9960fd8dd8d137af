"""Convert a folder of annotations and images to another format.

The format of FOLDER is recognised, as by `mask2former check`, and the data is checked first.
TARGET is a new folder, into which the images are copied. Its splits are those of FOLDER. The
command says what the format cannot hold and was left out.

Examples:
  mask2former convert-data my_data my_data_yolo --to yolo
  mask2former convert-data voc coco --to coco --task instance
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..formats import FORMATS
from .flags import add_data, recognised_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data, the new folder and its format."""
    parser.add_argument("data", metavar="FOLDER", help="images and their annotations")
    parser.add_argument("target", type=Path, metavar="TARGET", help="new folder")
    parser.add_argument(
        "--to", required=True, choices=FORMATS, metavar="NAME", help=f"{', '.join(FORMATS)}"
    )
    add_data(parser, named=False)


def run(args: argparse.Namespace) -> int:
    """Check the data, write it, and say what was left out."""
    from ..data.formats.convert import convert_data
    from ..data.formats.source import WHOLE

    found = recognised_data(args)
    print(found.summary(), flush=True)
    splits = {"train" if found.has_splits else WHOLE: found.train, "val": found.val}
    data = {split: part for split, part in splits.items() if part is not None}
    for note in convert_data(data, args.target, args.to, pixels=args.pixel_check):
        print(f"  {note}")
    print(f"{args.target}: {FORMATS[args.to]}")
    return 0
