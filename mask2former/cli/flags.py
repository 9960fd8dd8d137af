"""Arguments that several verbs have, and the form of their help."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..tasks import TASKS
from ..utils.format_flags import add_format
from ..utils.length_flags import LENGTHS
from ..utils.trust_flags import add_trust_flags

if TYPE_CHECKING:
    from ..data.own_folder import OwnFolder

MODEL_HELP = (
    "folder of a run, weights with their config beside them, exported file, Hugging Face folder "
    "or Hub id, or a name of `mask2former zoo`"
)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and is as short as fits a screen of 100 columns."""

    def __init__(self, prog: str, **options: Any) -> None:
        width = min(100, shutil.get_terminal_size().columns) - 2
        super().__init__(prog, **{"max_help_position": 26, "width": width, **options})

    def add_argument(self, action: argparse.Action) -> None:
        """Leave room for the longest verb, whose indentation argparse forgets."""
        super().add_argument(action)
        for verb in self._iter_indented_subactions(action):
            length = len(self._format_action_invocation(verb)) + self._current_indent
            self._action_max_length = max(self._action_max_length, length)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        """Leave out what is optional, which the list of options describes."""
        needed = [action for action in actions if action.required or not action.option_strings]
        super().add_usage(usage, needed, (), prefix)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model to use."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add where the model runs, and what changes its config."""
    parser.add_argument(
        "--device", metavar="NAME", help="such as cpu, cuda or cuda:1 (default: a GPU if any)"
    )
    add_config_flags(parser)


def model_overrides(args: argparse.Namespace) -> list[object]:
    """Return the overrides of the config that the flags of `add_model_flags` make."""
    import torch

    if args.device is not None:
        return ["MODEL.DEVICE", args.device, *args.opts]
    return [*(() if torch.cuda.is_available() else ("MODEL.DEVICE", "cpu")), *args.opts]


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add what changes a config, and the flags of trust."""
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar=("KEY", "VALUE"), help="config keys to change"
    )
    add_trust_flags(parser)


def add_task(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the choice of a task."""
    parser.add_argument(
        "--task", choices=TASKS, metavar="TASK", help=f"panoptic, instance or semantic ({text})"
    )


def add_data(parser: argparse.ArgumentParser, *, named: bool = True) -> None:
    """Add the folder of a user's own data, unless it is no flag, and how it is read and checked."""
    if named:
        parser.add_argument(
            "--data",
            required=True,
            metavar="FOLDER",
            help="images and their annotations, in any usual format",
        )
    add_task(parser, "default: the first that has annotations")
    add_format(parser)
    parser.add_argument(
        "--classes", metavar="FILE", help="class names of label maps (default: FOLDER/classes.txt)"
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
        (
            "--full-pixel-check",
            True,
            "decode all images (default: if that takes seconds)",
        ),
    ):
        pixels.add_argument(flag, action="store_const", const=value, dest="pixel_check", help=text)


def recognised_data(args: argparse.Namespace) -> OwnFolder:
    """Recognise the data of the flags of `add_data`; its task becomes that of the arguments."""
    from ..data.own_folder import recognise_folder

    found = recognise_folder(
        args.data,
        args.task,
        format=args.format,
        class_file=args.classes,
        ignore_label=args.ignore_label,
    )
    args.task = found.task
    return found


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add the file that divides a folder without splits."""
    parser.add_argument(
        "--split",
        metavar="FILE",
        help="images to train and validate with, as in the split.json of a run",
    )


def train_net_arguments(
    args: argparse.Namespace, config_file: str, overrides: Sequence[object]
) -> list[str]:
    """Return arguments of `train_net.py` for the same data, trust and number of processes."""
    arguments = ["--config-file", config_file]
    of_data = ("data", "task", "format", "classes", "ignore_label", "split")
    for name in (*of_data, "num_gpus", *LENGTHS):
        value = getattr(args, name, None)
        if value is not None:
            if name == "time_budget":
                value = f"{value}s"
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    for name in ("allow_unsafe_config", "allow_unsafe_weights"):
        if getattr(args, name):
            arguments.append(f"--{name.replace('_', '-')}")
    if args.pixel_check is not None:
        arguments.append("--full-pixel-check" if args.pixel_check else "--skip-pixel-check")
    return [*arguments, *map(str, overrides)]
