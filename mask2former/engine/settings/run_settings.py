"""The settings of a run: what the user gives, what the recipe chooses, what a resumed run keeps."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from ...checkpoint.resume import newest_checkpoints
from ...config import load_config
from ...config.merge import get_value, written_keys
from ...data.checks.report import ImageContent
from ...data.mapper import MAPPER_PRESETS
from ...data.own_data import Registered, on_main_process
from ...model_zoo import config_folder
from ...tasks import TaskName
from ...utils.device import has_fast_bfloat16
from ...utils.length_flags import LENGTHS
from ...utils.resources import free_memory, usable_cores
from .recipe import KEYS, LENGTH_KEYS, Choice, DataFacts, Machine, choose, table
from .schedule import scaled_schedule

# Share of the free memory that training may take, and the memory of a machine that does not tell.
_SHARE = {"cpu": 0.6, "cuda": 0.85}
_USUAL_MEMORY = 8 * 2**30


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
    """

    choices: tuple[Choice, ...]
    heading: str
    num_val: int
    of_length: Callable[[int, float], list[Choice]]
    has_length: bool = False

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
        ValueError: the length of the run is not a sensible number, or given twice.
    """
    if not args.eval_only:
        _check_length(args)
    preset = MAPPER_PRESETS.get(cfg.INPUT.DATASET_MAPPER_NAME)
    if args.eval_only or own is None or preset is None:
        return _of_config(cfg, args)
    given, published = given_keys(args)
    if args.iterations is not None:
        cfg.SOLVER.MAX_ITER = args.iterations
        given |= {"SOLVER.MAX_ITER"}
    data = data_facts(preset.targets, own)
    machine = on_main_process(lambda: machine_facts(cfg))
    if resumed := _resumed_config(cfg, args):
        kept = [key for key in KEYS if key not in given]
        set_values(cfg, [Choice(key, get_value(resumed, key), "") for key in kept])
        choices = []
        heading = f"Settings that were not given are those of {cfg.OUTPUT_DIR}/config.yaml"
        if args.epochs is not None:
            cfg.SOLVER.MAX_ITER = _iterations(cfg, args.epochs, data.images)
    else:
        choices = choose(cfg, data, machine, given=given, published=published, epochs=args.epochs)
        set_values(cfg, choices)
        heading = "Settings that were not given, chosen for this data and machine:"
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

    return Settings(tuple(choices), heading, data.val_images, of_length, resumed is not None)


def set_values(cfg: CfgNode, choices: Sequence[Choice]) -> None:
    """Set the chosen values in a config."""
    for choice in choices:
        section, _, key = choice.key.rpartition(".")
        get_value(cfg, section)[key] = choice.value


def _check_length(args: argparse.Namespace) -> None:
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


def data_facts(task: TaskName, own: Registered) -> DataFacts:
    """Return what the recipe needs to know about registered data."""
    images = list(own.images.values())
    sizes = [content.size for content in images if content.size is not None]
    counts = sorted(_count(content, task) for content in images)
    if task == "semantic" and not counts[-1]:  # the pixels of label maps were not read
        counts = [len(own.classes)]
    return DataFacts(
        task=task,
        images=max(1, len(images)),
        val_images=own.num_val,
        short_side=_percentile(sorted(map(min, sizes)), 0.5),
        long_side=_percentile(sorted(map(max, sizes)), 0.5),
        elongation=_percentile(sorted(max(size) / min(size) for size in sizes), 0.95),
        objects=_percentile(counts, 0.99),
        most_objects=counts[-1],
    )


def _count(content: ImageContent, task: TaskName) -> int:
    return len(content.units) if task == "semantic" else content.units.total()


def _percentile(values: Sequence[Any], share: float) -> Any:
    """Return the value below which a share of the sorted values is."""
    return values[min(len(values) - 1, int(share * len(values)))]


def machine_facts(cfg: CfgNode) -> Machine:
    """Return what the recipe needs to know about this machine, for one of the processes."""
    device = torch.device(cfg.MODEL.DEVICE)
    processes = comm.get_world_size()
    here = comm.get_local_size()
    if device.type == "cuda":
        memory: float = torch.cuda.mem_get_info(device)[0]
    else:
        free = free_memory()
        memory = (_USUAL_MEMORY if free is None else free) / here
    return Machine(
        device=device.type,
        processes=processes,
        cores=max(1, usable_cores() // here),
        memory=memory * _SHARE[device.type],
        fast_16_bit=device.type == "cuda" or has_fast_bfloat16(),
    )
