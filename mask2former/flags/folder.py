"""The flags that say how a folder of a user's own data is read, divided and checked."""

from __future__ import annotations

import argparse

from ..formats import FORMATS
from ..tasks import TASKS


def add_folder_flags(parser: argparse._ActionsContainer, task_default: str) -> None:
    """Add the task, the format, what label maps need, and how closely images are checked."""
    add_task(parser, f"default: {task_default}")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        metavar="NAME",
        help="of the annotations, if FOLDER has several, such as yolo",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="class names of label maps (default: FOLDER/classes.txt)",
    )
    parser.add_argument(
        "--ignore-label",
        type=int,
        metavar="N",
        help="label of no class (default: 255 or 65535)",
    )
    pixels = parser.add_mutually_exclusive_group()
    for flag, value, text in (
        ("--skip-pixel-check", False, "check only the headers of images"),
        ("--full-pixel-check", True, "decode all images (default: if that takes seconds)"),
    ):
        pixels.add_argument(flag, action="store_const", const=value, dest="pixel_check", help=text)


def add_task(parser: argparse._ActionsContainer, text: str) -> None:
    """Add the choice of a task; `text` says what it is without the flag."""
    parser.add_argument(
        "--task", choices=TASKS, metavar="TASK", help=f"panoptic, instance or semantic ({text})"
    )


def add_split(parser: argparse._ActionsContainer) -> None:
    """Add the file that divides a folder without splits."""
    parser.add_argument(
        "--split",
        metavar="FILE",
        help="images to train and validate with, as in the split.json of a run",
    )
