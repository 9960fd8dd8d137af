"""Arguments that several verbs have, and the form of their help."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..flags.folder import add_folder_flags
from ..flags.trust import add_trust_flags

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


def add_data(parser: argparse.ArgumentParser, *, named: bool = True) -> None:
    """Add the folder of a user's own data, unless it is no flag, and how it is read and checked."""
    if named:
        parser.add_argument(
            "--data",
            required=True,
            metavar="FOLDER",
            help="images and their annotations, in any usual format",
        )
    add_folder_flags(parser, "the first that has annotations")


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


def run_of(
    args: argparse.Namespace, config_file: str, overrides: Sequence[object], **others: object
) -> argparse.Namespace:
    """Return the arguments of `train_net.py` that do what a verb was asked for.

    Args:
        args: of the verb. Those that `train_net.py` has too are passed on.
        config_file: of the model.
        overrides: of the config.
        others: further arguments of `train_net.py`.
    """
    from ..engine.start import run_arguments

    shared = vars(args).keys() & vars(run_arguments()).keys()
    given = {name: getattr(args, name) for name in shared}
    given |= {"config_file": config_file, "opts": [str(word) for word in overrides]}
    return run_arguments(**given, verb=args.prog, **others)
