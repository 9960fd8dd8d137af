"""Training: trainer, loop, optimizer, command-line setup."""

from .optimizer import build_optimizer, param_groups
from .setup import argument_parser, check_device, setup
from .train_loop import TrainLoop
from .trainer import Trainer

__all__ = [
    "TrainLoop",
    "Trainer",
    "argument_parser",
    "build_optimizer",
    "check_device",
    "param_groups",
    "setup",
]
