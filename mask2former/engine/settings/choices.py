"""Values that were chosen for config keys: which keys, with what reason, and how to show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ...config.merge import get_value

_WIDEST = 16  # characters of a value in the table
# Every key that the recipe may set.
KEYS = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "INPUT.COLOR_AUG_SSD",
    "INPUT.IMAGE_SIZE",
    "INPUT.CROP.SIZE",
    "INPUT.MIN_SIZE_TRAIN",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.SIZE_DIVISIBILITY",
    "INPUT.OBJECT_CROP",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT",
    "MODEL.MASK_FORMER.IGNORE_REGIONS",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.SAMPLER_TRAIN",
    "DATALOADER.REPEAT_THRESHOLD",
    "SOLVER.AMP.ENABLED",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.ACCUMULATE_STEPS",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.BASE_LR",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.WARMUP_FACTOR",
    "SOLVER.EMA_DECAY",
    "SOLVER.BEST_METRIC",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.CHECKPOINTS_TO_KEEP",
    "TEST.EVAL_PERIOD",
    "TEST.DETECTIONS_PER_IMAGE",
)
# Those that follow from the length of a run
LENGTH_KEYS = (
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.EMA_DECAY",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)


@dataclass(frozen=True)
class Choice:
    """A value that the recipe chose for a config key, and why."""

    key: str
    value: Any
    why: str


def set_values(cfg: CfgNode, choices: Sequence[Choice]) -> None:
    """Set the chosen values in a config."""
    for choice in choices:
        section, _, key = choice.key.rpartition(".")
        get_value(cfg, section)[key] = choice.value


def table(choices: Sequence[Choice]) -> str:
    """Return the choices as lines of key, value and reason in columns; long values stick out."""
    rows = [(choice.key, _text(choice.value), choice.why) for choice in choices]
    first = max((len(key) for key, _, _ in rows), default=0)
    second = max((len(value) for _, value, _ in rows if len(value) <= _WIDEST), default=0)
    return "\n".join(f"  {key:{first}}  {value:{second}}  {why}" for key, value, why in rows)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
