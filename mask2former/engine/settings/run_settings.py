"""The settings of a run: what the user gives, what the recipe chooses, what a resumed run keeps."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ...checkpoint.resume import newest_checkpoints
from ...config import load_config
from ...config.merge import get_value, written_keys
from ...data.mapper import MAPPER_PRESETS
from ...data.own_data import Registered
from ...flags.length import LENGTHS
from ...model_zoo import config_folder
from ...utils.processes import on_main_process
from .choices import KEYS, LENGTH_KEYS, Choice, set_values, table
from .data_warnings import data_warnings
from .facts import data_facts, machine_facts
from .recipe import choose
from .schedule import scaled_schedule


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        choices: what was chosen and why.
        heading: what the log says of the choices.
        num_val: number of images that an evaluation takes.
        of_length: number of iterations, and how many times as long an image takes in training as in
            evaluation -> `SOLVER.MAX_ITER` and what depends on it.
        has_length: whether the length is that of an earlier part of the run.
        warnings: what the model will miss in the data, and which key changes it.
    """

    choices: tuple[Choice, ...]
    heading: str
    num_val: int
    of_length: Callable[[int, float], list[Choice]]
    has_length: bool = False
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the choices for the log; an empty text if there are none."""
        return "\n".join(filter(None, (self.heading, table(self.choices))))


def set_up_run(cfg: CfgNode, args: argparse.Namespace, own: Registered | None) -> Settings:
    """Set what the user leaves open for a run on own data; other runs stay as they are.

    Args:
        cfg: the config, which is changed in place.
        args: of the command line.
        own: the user's own data, or None.

    Raises:
        ValueError: there is not a single iteration.
    """
    preset = MAPPER_PRESETS.get(cfg.INPUT.DATASET_MAPPER_NAME)
    if args.eval_only or own is None or preset is None:
        return _of_config(cfg, args)
    given, published = given_keys(args)
    if args.iterations is not None:
        cfg.SOLVER.MAX_ITER = args.iterations
        given |= {"SOLVER.MAX_ITER"}
    data = data_facts(
        preset.targets, own.images, own.classes, num_val=own.num_val, stored=own.stored
    )
    machine = on_main_process(lambda: machine_facts(cfg))
    if resumed := _resumed_config(cfg, args):
        kept = [key for key in KEYS if key not in given]
        set_values(cfg, [Choice(key, get_value(resumed, key), "") for key in kept])
        choices = []
        heading = f"Settings that you did not give are those of {cfg.OUTPUT_DIR}/config.yaml"
        if args.epochs is not None:
            cfg.SOLVER.MAX_ITER = _iterations(cfg, args.epochs, data.images)
    else:
        choices = choose(cfg, data, machine, given=given, published=published, epochs=args.epochs)
        set_values(cfg, choices)
        heading = "Settings that you did not give, chosen for this data and this machine:"
        heading = heading if choices else ""

    def of_length(iterations: int, training_cost: float) -> list[Choice]:
        changed = cfg.clone()
        changed.defrost()
        changed.SOLVER.MAX_ITER = iterations
        fixed = given | {"SOLVER.MAX_ITER"}
        found = choose(
            changed,
            data,
            machine,
            given=fixed,
            published=published,
            training_cost=training_cost,
        )
        kept = [choice for choice in found if choice.key in LENGTH_KEYS]
        return [Choice("SOLVER.MAX_ITER", iterations, "--time-budget"), *kept]

    warnings = tuple(data_warnings(cfg, own.images, preset.targets))
    return Settings(
        tuple(choices), heading, data.val_images, of_length, resumed is not None, warnings
    )


def check_length(args: argparse.Namespace) -> None:
    """Raise `ValueError` if the length of the run is no sensible number, or given twice."""
    for name in LENGTHS:
        value = getattr(args, name)
        if value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if not 0 < value < math.inf:
            raise ValueError(f"{flag} {value}: a number above 0 is needed")
        if "SOLVER.MAX_ITER" in map(str, args.opts[::2]):
            raise ValueError(f"{flag} and SOLVER.MAX_ITER: give one of them")


def _of_config(cfg: CfgNode, args: argparse.Namespace) -> Settings:
    """Return the settings of a run on registered data: those of the config, scaled to a length."""
    given = set(map(str, args.opts[::2]))

    def of_length(iterations: int, training_cost: float = 1) -> list[Choice]:
        words = scaled_schedule(cfg, iterations)
        pairs = zip(words[::2], words[1::2], strict=True)
        why = "scaled to this length"
        return [Choice(str(key), value, why) for key, value in pairs if key not in given]

    num_val = 0
    if args.time_budget is not None and not args.eval_only:
        num_val = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TEST)
    if args.time_budget is not None and (resumed := _resumed_config(cfg, args)):
        kept = [key for key in LENGTH_KEYS if key not in given]
        set_values(cfg, [Choice(key, get_value(resumed, key), "") for key in kept])
        return Settings((), "", num_val, of_length, has_length=True)
    iterations = None if args.eval_only else args.iterations
    if not args.eval_only and args.epochs is not None:
        images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
        iterations = _iterations(cfg, args.epochs, images)
    if iterations is not None:
        set_values(cfg, of_length(iterations))
    return Settings((), "", num_val, of_length)


def _iterations(cfg: CfgNode, epochs: float, images: int) -> int:
    return math.ceil(epochs * images / (cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS))


def is_evaluated(cfg: CfgNode, args: argparse.Namespace) -> bool:
    """Tell whether a run on own data evaluates: ``TEST.EVAL_PERIOD`` 0 says that it does not.

    Where the recipe chooses the period, a 0 that a config of this project has does not count.
    """
    if args.eval_only or cfg.TEST.EVAL_PERIOD:
        return True
    is_chosen = cfg.INPUT.DATASET_MAPPER_NAME in MAPPER_PRESETS
    return is_chosen and "TEST.EVAL_PERIOD" not in given_keys(args)[0]


def given_keys(args: argparse.Namespace) -> tuple[frozenset[str], CfgNode | None]:
    """Return the keys that the user set, and the config that the user's files derive from."""
    given = frozenset(map(str, args.opts[::2]))
    if os.path.isdir(args.config_file):  # a Hugging Face model
        return given, load_config(args.config_file, task=args.task)
    written, base = written_keys(args.config_file, config_folder())
    return given | written, None if base is None else load_config(base)


def _resumed_config(cfg: CfgNode, args: argparse.Namespace) -> CfgNode | None:
    """Return the config of the run that is resumed, whose choices hold; None for a new run."""
    file = Path(cfg.OUTPUT_DIR, "config.yaml")
    is_resumed = args.resume and newest_checkpoints(file.parent) and file.is_file()
    return load_config(str(file)) if is_resumed else None
