"""Learning rate schedules."""

from __future__ import annotations

import torch
from detectron2 import solver
from detectron2.config import CfgNode
from detectron2.solver.lr_scheduler import LRMultiplier, LRScheduler
from fvcore.common.param_scheduler import ParamScheduler

_POLYNOMIAL = "WarmupPolyLR"
_SCHEDULES = (_POLYNOMIAL, "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Build ``SOLVER.LR_SCHEDULER_NAME``: `PolynomialDecay` for "WarmupPolyLR", or Detectron2's.

    Raises:
        ValueError: there is no such schedule, or its settings are out of range.
    """
    _check(cfg.SOLVER)
    if cfg.SOLVER.LR_SCHEDULER_NAME != _POLYNOMIAL:
        return solver.build_lr_scheduler(cfg, optimizer)
    decay = PolynomialDecay(
        cfg.SOLVER.MAX_ITER,
        power=cfg.SOLVER.POLY_LR_POWER,
        ending=cfg.SOLVER.POLY_LR_CONSTANT_ENDING,
        warmup_iterations=cfg.SOLVER.WARMUP_ITERS,
        warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
        is_linear=cfg.SOLVER.WARMUP_METHOD == "linear",
    )
    return LRMultiplier(optimizer, decay, cfg.SOLVER.MAX_ITER)


def _check(settings: CfgNode) -> None:
    """Raise `ValueError` for what no schedule can use, and name the key."""
    for key, choices in (
        ("LR_SCHEDULER_NAME", _SCHEDULES),
        ("WARMUP_METHOD", ("linear", "constant")),
    ):
        if settings[key] not in choices:
            raise ValueError(
                f"SOLVER.{key} is {settings[key]!r}, but must be one of {', '.join(choices)}"
            )
    last, first = settings.BASE_LR_END, settings.BASE_LR
    if settings.LR_SCHEDULER_NAME == "WarmupCosineLR" and not 0 <= last <= first != 0:
        raise ValueError(
            f"SOLVER.BASE_LR_END is {last} and SOLVER.BASE_LR {first}, but with WarmupCosineLR the "
            "first must be between 0 and the second, and the second above 0"
        )


class PolynomialDecay(ParamScheduler):
    """``(1 - iteration / max_iterations) ** power``, times a factor in the first iterations.

    It is DeepLab's schedule (arXiv 1606.00915, section 4.1.1).

    Args:
        max_iterations: at which the rate would be 0.
        power: of the decay.
        ending: the least multiple of the base rate after the warm-up.
        warmup_iterations: how many have the factor.
        warmup_factor: that of the first iteration.
        is_linear: whether it rises to 1 in steps, instead of at once.
    """

    def __init__(
        self,
        max_iterations: int,
        *,
        power: float,
        ending: float,
        warmup_iterations: int,
        warmup_factor: float,
        is_linear: bool,
    ):
        self.max_iterations = max_iterations
        self.power = power
        self.ending = ending
        self.warmup_iterations = warmup_iterations
        self.warmup_factor = warmup_factor
        self.is_linear = is_linear

    def __call__(self, where: float) -> float:
        """Return the multiple of the base rate at a share of the iterations, from 0 to 1."""
        decay = max(0.0, 1 - where) ** self.power
        iteration = round(where * self.max_iterations)
        if iteration >= self.warmup_iterations:
            return max(decay, self.ending)
        if not self.is_linear:
            return self.warmup_factor * decay
        risen = iteration / self.warmup_iterations
        return (self.warmup_factor * (1 - risen) + risen) * decay
