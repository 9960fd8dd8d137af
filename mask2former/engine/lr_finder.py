"""How the loss of a few steps depends on the learning rate, and the rate that follows from it.

The sweep is that of Smith (arXiv 1506.01186, section 3.3): the rate grows from step to step by the
same factor. It trains a model of its own, so that nothing else changes, neither a trainer nor a
file.

Shapes:
    S: steps until the losses were no longer finite, or far above the least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from scipy.ndimage import gaussian_filter1d

from ..checkpoint import Checkpointer
from ..data import build_train_loader
from ..data.loader import seeded
from ..utils.progress import with_progress
from .optimizer import build_optimizer
from .train_loop import TrainLoop
from .trainer import Trainer

# Standard deviation, in octaves of the rate, of the Gaussian that smooths the losses.
_SMOOTHING = 0.8
# A smoothed loss that is so many times the least ends the sweep.
_DIVERGED = 2.0
_FEWEST_STEPS = 10


@dataclass(frozen=True)
class Sweep:
    """The losses over the learning rate.

    Attributes:
        rates: (S,) values of ``SOLVER.BASE_LR``, ascending.
        losses: (S,) total losses of single steps.
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """(S,) losses, averaged over neighbouring steps."""
        octaves = np.log2(self.rates)
        sigma = _SMOOTHING / (octaves[1] - octaves[0])
        # Of logarithms, so that one huge loss at the end does not lift its neighbours.
        return np.exp(gaussian_filter1d(np.log(self.losses), sigma, mode="nearest"))

    @property
    def best(self) -> int:
        """Index of the least smoothed loss."""
        return int(self.smoothed.argmin())

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed loss falls fastest, or None if it does not fall."""
        if self.best < 2:
            return None
        slopes = np.gradient(self.smoothed, np.log(self.rates))[: self.best]
        steepest = int(slopes.argmin())
        return float(self.rates[steepest]) if slopes[steepest] < 0 else None


def check_sweep(low: float, high: float, steps: int) -> None:
    """Raise `ValueError` unless a sweep has enough steps and a range of learning rates."""
    if steps < _FEWEST_STEPS:
        raise ValueError(f"{steps} steps: at least {_FEWEST_STEPS} are needed")
    if not 0 < 10 * low <= high < math.inf:
        raise ValueError(
            f"learning rates from {low:g} to {high:g}: the last must be ten times the first or more"
        )


def find_learning_rate(
    cfg: CfgNode,
    *,
    low: float = 1e-6,
    high: float = 1e-1,
    steps: int = 100,
    allow_unsafe_weights: bool = False,
    quiet: bool = True,
) -> Sweep:
    """Train some steps with a growing learning rate, from ``MODEL.WEIGHTS``, and keep the losses.

    The batches, the precision, the clipping and the rates of the backbone relative to the others
    are those of a run with this config. The same seed gives the same losses; ``SEED`` -1, which
    stands for a random one, is 0 here. The global random generators stay as they are.

    Args:
        cfg: the config, which is not modified.
        low: value of ``SOLVER.BASE_LR`` of the first step.
        high: that of the last step, at least ten times `low`.
        steps: at least 10; fewer follow where the losses diverge.
        allow_unsafe_weights: read weights that may run code.
        quiet: whether to hide the progress.

    Raises:
        ValueError: an argument or the config is not usable, or the losses are not finite from the
            beginning.
        DatasetError: an image cannot be used.
    """
    check_sweep(low, high, steps)
    rates = np.geomspace(low, high, steps)
    with seeded(max(cfg.SEED, 0)):
        loop, factors = _loop(cfg, allow_unsafe_weights)
        losses: list[float] = []
        with EventStorage() as storage:
            for rate in with_progress(
                rates.tolist(), "Trying learning rates", unit="steps", quiet=quiet
            ):
                for group, factor in zip(loop.optimizer.param_groups, factors, strict=True):
                    group["lr"] = rate * factor
                loop.iter = storage.iter = len(losses)
                try:
                    loop.run_step()
                except FloatingPointError as error:
                    if len(losses) < _FEWEST_STEPS:
                        raise ValueError(f"at a learning rate of {rate:.1e}, {error}") from error
                    break
                losses.append(storage.latest()["total_loss"][0])
                sweep = Sweep(rates[: len(losses)], np.array(losses))
                if len(losses) >= _FEWEST_STEPS and _has_diverged(sweep.smoothed):
                    break
    return sweep


def _loop(cfg: CfgNode, allow_unsafe: bool) -> tuple[TrainLoop, list[float]]:
    """Build a training loop of its own, and the factor on the base rate of each group."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = max(cfg.SEED, 0)
    cfg.SOLVER.BASE_LR = cfg.SOLVER.BASE_LR or 1.0
    torch.manual_seed(cfg.SEED)
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, for_training=True, allow_unsafe=allow_unsafe)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    optimizer = build_optimizer(cfg, model)
    loop = TrainLoop.from_config(
        cfg,
        model.train(),
        build_train_loader(cfg, seed=cfg.SEED),
        optimizer,
        seed=cfg.SEED,
    )
    return loop, [group["lr"] / cfg.SOLVER.BASE_LR for group in optimizer.param_groups]


def _has_diverged(smoothed: np.ndarray) -> bool:
    return bool(smoothed[-1] > _DIVERGED * smoothed.min())
