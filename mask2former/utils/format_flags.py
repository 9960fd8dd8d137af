"""The names of formats of a user's own data on command lines."""

from __future__ import annotations

import argparse

FORMATS = {
    "coco": "COCO instance JSON",
    "coco-panoptic": "COCO panoptic JSON and PNG files",
    "yolo": "YOLO segmentation",
    "labelme": "LabelMe JSON",
    "voc": "Pascal VOC segmentation",
    "masks": "one mask file per object",
    "label-maps": "label maps of class numbers",
    "color-maps": "colour-coded label maps",
}
"""Each format by its name, in words."""


def add_format(parser: argparse._ActionsContainer) -> None:
    """Add ``--format`` to a parser or a group of arguments."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        metavar="NAME",
        help="of the annotations, if FOLDER has several, such as yolo",
    )
