"""A config's schedule for a run of another length."""

from __future__ import annotations

from detectron2.config import CfgNode

# A run is evaluated and saved at least this often.
_PERIODS = 4


def scaled_schedule(cfg: CfgNode, iterations: int) -> list[object]:
    """Scale the schedule of a config to another number of iterations.

    Args:
        cfg: the config.
        iterations: the new ``SOLVER.MAX_ITER``.

    Returns:
        Overrides ``[key, value, ...]`` of the config. ``SOLVER.STEPS`` keep their share of the run,
        and the warm-up does if the run becomes shorter. The periods of checkpoints and evaluations
        become at most a quarter of the run.

    Raises:
        ValueError: there is not at least one iteration.
    """
    if iterations < 1:
        raise ValueError(f"{iterations} iterations: at least 1 is needed")
    scale = iterations / cfg.SOLVER.MAX_ITER
    most = max(1, iterations // _PERIODS)
    return [
        *("SOLVER.MAX_ITER", iterations),
        *("SOLVER.STEPS", tuple(round(step * scale) for step in cfg.SOLVER.STEPS)),
        *("SOLVER.WARMUP_ITERS", round(cfg.SOLVER.WARMUP_ITERS * min(1.0, scale))),
        *("SOLVER.CHECKPOINT_PERIOD", min(cfg.SOLVER.CHECKPOINT_PERIOD, most)),
        *("TEST.EVAL_PERIOD", min(cfg.TEST.EVAL_PERIOD, most)),
    ]
