"""The length of a run that ends within a given time, from the measured speed of this machine."""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from mask2former_runtime.text import clock, counted

from ...data.loader import build_test_loader, build_train_loader
from ..distributed import distributed_model
from ..loggers.console import LOGGERS
from ..precision import autocast
from ..train_loop import TrainLoop
from ..trainer import Trainer
from .choices import Choice, set_values
from .run_settings import Settings

# Training: steps before the clock runs, least steps that it times, most steps, and the share of the
# budget after which it stops; the same of images in evaluation.
_WARM_UP, _LEAST, _MOST, _SHARE = 3, 5, 500, 0.04
# Evaluators take about half as long as the model, and some time per evaluation.
_EVALUATOR, _PER_EVALUATION = 1.5, 0.3
# A disk that is not fast, in bytes per second
_DISK = 3e8
# Seconds until the report of a run is written
_REPORT = 3.0
# Not all steps take as long as those that were timed.
_RESERVE = 0.96


@dataclass(frozen=True)
class Speed:
    """What was measured, in seconds.

    Attributes:
        step: an iteration of training.
        image: an image of the validation set, evaluated; 0 without one.
        start: building the model and the loaders.
        checkpoint: saving one.
    """

    step: float
    image: float
    start: float
    checkpoint: float


def fit_to_budget(cfg: CfgNode, args: argparse.Namespace, settings: Settings) -> Settings:
    """Measure the speed of training, and set the length of the run and what depends on it.

    The run's seeds and random draws stay as without a budget. This writes no file.

    Args:
        cfg: the config, which is changed in place.
        args: of the command line, with ``time_budget`` and ``started``.
        settings: of the run.

    Returns:
        The settings of the run with this length.

    Raises:
        ValueError: the budget is too short for a single iteration.
    """
    budget = args.time_budget
    if comm.is_main_process():
        print(f"Measuring the speed of training for --time-budget {clock(budget)} ...", flush=True)
    with _random_state_kept(), _quiet():
        speed = measure(cfg, budget)
    elapsed = time.monotonic() - args.started
    left = min(comm.all_gather((budget - elapsed) * _RESERVE - speed.start))
    batch = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS / comm.get_world_size()
    cost = speed.step / batch / speed.image if speed.image else 1.0

    def seconds(iterations: int) -> float:
        changed = _with_length(cfg, settings.of_length(iterations, cost))
        return _seconds(changed, speed, settings.num_val)

    iterations = longest(seconds, left)
    if iterations < 1:
        raise ValueError(
            f"--time-budget {clock(budget)} is too short: getting ready took {elapsed:.0f} s, and "
            f"one iteration with its evaluation takes about {seconds(1) + speed.start:.0f} s"
        )
    chosen = settings.of_length(iterations, cost)
    frozen = cfg.is_frozen()
    cfg.defrost()
    set_values(cfg, chosen)
    if frozen:
        cfg.freeze()
    evaluation = f", the evaluation of an image {speed.image:.3g} s" if speed.image else ""
    fits = (
        f"{clock(budget)} fit {counted(iterations, 'iteration')}: one takes {speed.step:.3g} s"
        f"{evaluation}, and getting ready took {elapsed:.0f} s"
    )
    return replace(
        settings,
        choices=tuple({choice.key: choice for choice in (*settings.choices, *chosen)}.values()),
        heading=f"{fits}\n{settings.heading or 'Settings that this length changes:'}",
    )


def longest(seconds: Callable[[int], float], left: float) -> int:
    """Return the largest number of iterations that take at most so many seconds, or 0.

    Args:
        seconds: how long a number of iterations takes; it grows with the number.
        left: the time.
    """
    if seconds(1) > left:
        return 0
    low, high = 1, 2
    while seconds(high) <= left and high < 1 << 40:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if seconds(middle) <= left else (low, middle)
    return low


def _with_length(cfg: CfgNode, choices: Sequence[Choice]) -> CfgNode:
    changed = cfg.clone()
    changed.defrost()
    set_values(changed, choices)
    return changed


def _seconds(cfg: CfgNode, speed: Speed, num_val: int) -> float:
    """Return how long a run takes once it is ready."""
    iterations = cfg.SOLVER.MAX_ITER
    seconds = iterations * speed.step
    seconds += math.ceil(iterations / cfg.SOLVER.CHECKPOINT_PERIOD) * speed.checkpoint
    if num_val:
        period = cfg.TEST.EVAL_PERIOD or iterations
        models = 2 if cfg.SOLVER.EMA_DECAY else 1
        once = math.ceil(num_val / comm.get_world_size()) * speed.image + _PER_EVALUATION
        seconds += math.ceil(iterations / period) * models * once
    return seconds + (_REPORT if cfg.TEST.REPORT else 0)


def measure(cfg: CfgNode, budget: float) -> Speed:
    """Time steps of training and images of evaluation with a model that is thrown away."""
    begin = time.monotonic()
    seed = max(cfg.SEED, 0)
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    loop = TrainLoop.from_config(
        cfg,
        distributed_model(model),
        build_train_loader(cfg, seed=seed),
        optimizer,
        seed=seed,
    )
    # A rate of 0 would leave the weights as they are, but they are thrown away anyway.
    with EventStorage():
        step, first = _time(lambda i: _step(loop, i), cfg, budget)
    start = time.monotonic() - begin - first
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    checkpoint = 3 * size / _DISK + 0.05  # weights and the two averages of AdamW
    image = 0.0
    if cfg.DATASETS.TEST:
        image = _EVALUATOR * _time_evaluation(cfg, model, budget)
    found = comm.all_gather(Speed(step, image, start, checkpoint))
    return Speed(*(max(getattr(s, name) for s in found) for name in Speed.__annotations__))


def _step(loop: TrainLoop, number: int) -> bool:
    loop.iter = number
    loop.run_step()
    return True


def _time_evaluation(cfg: CfgNode, model: nn.Module, budget: float) -> float:
    images = iter(islice(build_test_loader(cfg, cfg.DATASETS.TEST[0]), 200))
    model.eval()

    def evaluate(number: int) -> bool:
        batch = next(images, None)
        if batch is not None:
            model(batch)
        return batch is not None

    with torch.no_grad(), autocast(cfg):
        return _time(evaluate, cfg, budget)[0]


def _time(run: Callable[[int], bool], cfg: CfgNode, budget: float) -> tuple[float, float]:
    """Return the mean time of a call that comes after some others, and the time of all calls.

    Args:
        run: called with a number that counts up; returns whether there was something to do.
        cfg: the config.
        budget: of the run.
    """
    begin = last = time.monotonic()
    first = last
    done = 0
    while True:
        more = run(done)
        if torch.device(cfg.MODEL.DEVICE).type == "cuda":
            torch.cuda.synchronize()
        if more:
            done, last = done + 1, time.monotonic()
        if done == _WARM_UP:
            first = last
        enough = last - first > _SHARE * budget and done >= _WARM_UP + _LEAST
        # All processes end after the same call.
        if max(comm.all_gather(not more or enough or done >= _MOST)):
            break
    timed = done - _WARM_UP if done > _WARM_UP else done
    return (last - (first if done > _WARM_UP else begin)) / max(1, timed), last - begin


@contextmanager
def _quiet() -> Iterator[None]:
    """Log no more than warnings: what is built here is thrown away."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [own.level for own in loggers]
    for own in loggers:
        own.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for own, level in zip(loggers, before, strict=True):
            own.setLevel(level)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 -- libraries draw from it
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
