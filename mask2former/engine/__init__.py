"""Training: trainer, loop, optimizer, command-line setup."""

from .interruption import stop_on_signals
from .launch import launch
from .optimizer import build_optimizer, param_groups
from .run_folder import LostFolderError
from .setup import argument_parser, setup
from .train_loop import TrainLoop
from .trainer import Trainer

__all__ = [
    "LostFolderError",
    "TrainLoop",
    "Trainer",
    "argument_parser",
    "build_optimizer",
    "launch",
    "param_groups",
    "setup",
    "stop_on_signals",
]
