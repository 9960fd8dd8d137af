"""The ranges of config values, checked all at once before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from PIL import Image

from mask2former_runtime.image import IMAGE_FORMATS
from mask2former_runtime.stored import STORED_TYPES

from .merge import get_value


class _Rule(NamedTuple):
    """What a value must be."""

    text: str
    holds: Callable[[Any], bool]


def _number(text: str, holds: Callable[[float], bool]) -> _Rule:
    return _Rule(text, lambda v: isinstance(v, (int, float)) and holds(v))


def _one_of(*values: object) -> _Rule:
    return _Rule(f"one of {', '.join(map(repr, values))}", lambda v: v in values)


def _whole(low: int, high: int) -> _Rule:
    text = f"a whole number of at least {low} and at most {high:,}"
    return _Rule(text, lambda v: isinstance(v, int) and low <= v <= high)


def _each(rule: _Rule, length: int | None = None, least: int = 0) -> _Rule:
    """Return the rule for tuples and lists of values."""
    count = f"{length}" if length is not None else f"{least} or more" if least else "a list of"

    def holds(values: Any) -> bool:
        return (
            isinstance(values, (tuple, list))
            and len(values) >= least
            and length in (None, len(values))
            and all(map(rule.holds, values))
        )

    return _Rule(f"{count} values, each {rule.text}", holds)


_POSITIVE = _number("above 0", lambda v: v > 0)
_AT_LEAST_1 = _number("at least 1", lambda v: v >= 1)
_NOT_NEGATIVE = _number("at least 0", lambda v: v >= 0)
_SHARE = _number("between 0 and 1", lambda v: 0 <= v <= 1)
_NAME = _Rule("a name", lambda v: isinstance(v, str))
_COUNT = _Rule("a whole number of at least 1", lambda v: isinstance(v, int) and v >= 1)
# Above these, memory is more likely to end than a model to be meant.
_LAYERS = _whole(1, 1000)
_CHANNELS = _whole(1, 16_384)
_SIZE = _whole(1, 100_000)

# Detectron2's own mappers, which a user's trainer may have, take all modes of Pillow as well.
_FORMATS = (*IMAGE_FORMATS, *STORED_TYPES, *Image.MODES, "YUV-BT.601")

_HEAD = "MODEL.SEM_SEG_HEAD."
_DEFORMABLE = f"{_HEAD}DEFORMABLE_TRANSFORMER_ENCODER_"
_MASK_FORMER = "MODEL.MASK_FORMER."
_SWIN = "MODEL.SWIN."

_KEYS: dict[_Rule, tuple[str, ...]] = {
    _COUNT: (
        "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST",
        "SOLVER.IMS_PER_BATCH", "SOLVER.ACCUMULATE_STEPS", "SOLVER.MAX_ITER",
        "SOLVER.CHECKPOINT_PERIOD", "TEST.DETECTIONS_PER_IMAGE",
    ),
    _SIZE: (
        "INPUT.IMAGE_SIZE", f"{_HEAD}NUM_CLASSES", f"{_HEAD}COMMON_STRIDE",
        f"{_MASK_FORMER}NUM_OBJECT_QUERIES", f"{_MASK_FORMER}PILOTED.MAX_QUERIES",
        *(_SWIN + key for key in ("PRETRAIN_IMG_SIZE", "PATCH_SIZE", "WINDOW_SIZE")),
    ),
    _CHANNELS: (
        f"{_HEAD}CONVS_DIM", f"{_HEAD}MASK_DIM", f"{_DEFORMABLE}DIM_FEEDFORWARD",
        f"{_MASK_FORMER}HIDDEN_DIM", f"{_MASK_FORMER}DIM_FEEDFORWARD",
        "MODEL.FPN.OUT_CHANNELS", "MODEL.TIMM.PYRAMID_DIM", f"{_SWIN}EMBED_DIM",
        *(
            f"MODEL.RESNETS.{key}"
            for key in ("NUM_GROUPS", "WIDTH_PER_GROUP", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS")
        ),
    ),
    _LAYERS: (
        f"{_HEAD}BIFPN_LAYERS", f"{_DEFORMABLE}N_HEADS", f"{_DEFORMABLE}N_POINTS",
        f"{_MASK_FORMER}DEC_LAYERS", f"{_MASK_FORMER}NHEADS",
    ),
    _whole(1, 10_000_000): (f"{_MASK_FORMER}TRAIN_NUM_POINTS",),
    _whole(-1, 8192): (f"{_MASK_FORMER}SIZE_DIVISIBILITY",),
    _AT_LEAST_1: (f"{_MASK_FORMER}OVERSAMPLE_RATIO",),
    _POSITIVE: (
        "INPUT.MIN_SCALE", "INPUT.MAX_SCALE", f"{_SWIN}MLP_RATIO",
        f"{_MASK_FORMER}ANNEALING.POWER",
    ),
    _NOT_NEGATIVE: (
        "INPUT.MIN_SIZE_TEST", "DATALOADER.NUM_WORKERS", "TEST.EVAL_PERIOD",
        *(
            f"SOLVER.{key}"
            for key in (
                "BASE_LR", "WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_EMBED",
                "BACKBONE_MULTIPLIER", "GAMMA", "MOMENTUM", "WARMUP_FACTOR", "WARMUP_ITERS",
                "CHECKPOINT_PERIOD_MINUTES",
            )
        ),
        f"{_HEAD}TRANSFORMER_ENC_LAYERS",
        *(
            _MASK_FORMER + key
            for key in (
                "NO_OBJECT_WEIGHT", "CLASS_WEIGHT", "DICE_WEIGHT", "MASK_WEIGHT", "ENC_LAYERS"
            )
        ),
    ),
    _SHARE: (
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", "INPUT.COPY_PASTE", "INPUT.OBJECT_CROP",
        *(_MASK_FORMER + key for key in (
            "DROPOUT", "IMPORTANCE_SAMPLE_RATIO", "PILOTED.LABEL_NOISE", "PILOTED.MASK_NOISE",
            "ANNEALING.START", "ANNEALING.END",
        )),
        "TEST.MASK_NMS",
        f"{_MASK_FORMER}TEST.OBJECT_MASK_THRESHOLD", f"{_MASK_FORMER}TEST.OVERLAP_THRESHOLD",
        *(_SWIN + key for key in ("DROP_RATE", "ATTN_DROP_RATE", "DROP_PATH_RATE")),
        "MODEL.TIMM.DROP_PATH_RATE",
    ),
    _number("at least 0 and below 1", lambda v: 0 <= v < 1): ("SOLVER.EMA_DECAY",),
    _number("above 0 and at most 1", lambda v: 0 < v <= 1): ("SOLVER.LAYER_DECAY",),
    _Rule("a whole number of at least -1", lambda v: isinstance(v, int) and v >= -1): (
        "MODEL.TIMM.FROZEN_STAGES", f"{_MASK_FORMER}PILOTED.MASK_LAYERS",
    ),
    _each(_NOT_NEGATIVE): ("SOLVER.STEPS", f"{_MASK_FORMER}CLASS_LOSS_WEIGHTS"),
    _each(_SIZE): ("TEST.AUG.MIN_SIZES",),
    _each(_SIZE, least=1): ("INPUT.MIN_SIZE_TRAIN",),
    _each(_NAME): (
        "DATASETS.TRAIN", "DATASETS.TEST", f"{_HEAD}IN_FEATURES", f"{_DEFORMABLE}IN_FEATURES",
    ),
    _each(_one_of(False, True), 4): ("MODEL.RESNETS.DEFORM_ON_PER_STAGE",),
    _each(_LAYERS, 4): (f"{_SWIN}DEPTHS", f"{_SWIN}NUM_HEADS"),
    _each(_POSITIVE, 2): ("INPUT.CROP.SIZE",),
    _each(_POSITIVE): ("MODEL.PIXEL_STD",),
    _each(_number("a number", lambda v: True)): ("MODEL.PIXEL_MEAN",),
    _Rule("a whole number of at least 0", lambda v: isinstance(v, int) and v >= 0): (
        "SOLVER.CHECKPOINTS_TO_KEEP", "SOLVER.EARLY_STOPPING_PATIENCE",
        "SOLVER.REFERENCE_WORLD_SIZE",
        *(_MASK_FORMER + key for key in ("TEST.DEC_LAYERS", "PILOTED.GROUPS")),
        "MODEL.TIMM.PRETRAIN_IMG_SIZE",
    ),
    _Rule(
        f"RGB or BGR; or, for images as they are stored, one of {', '.join(STORED_TYPES)}",
        lambda v: v in _FORMATS,
    ): ("INPUT.FORMAT",),
    _one_of("ADAMW", "SGD"): ("SOLVER.OPTIMIZER",),
    _each(_one_of("tensorboard", "json", "csv", "wandb", "mlflow", "trackio")): ("LOGGERS",),
    _one_of("point", "shift", "scale"): (f"{_MASK_FORMER}PILOTED.NOISE",),
    _one_of("stop", "skip"): ("DATALOADER.BAD_IMAGES",),
    _one_of("", "photographs", "aerial", "microscopy", "documents"): ("INPUT.AUGMENTATION",),
    _one_of("full_model", "value", "norm"): ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE",),
    _one_of(  # those of Detectron2's get_norm
        "", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN"
    ): ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", f"{_HEAD}NORM"),
    _one_of("sum", "avg"): ("MODEL.FPN.FUSE_TYPE",),
    _one_of(18, 34, 50, 101, 152): ("MODEL.RESNETS.DEPTH",),
    _one_of(1, 2, 4): ("MODEL.RESNETS.RES5_DILATION",),
    _each(_one_of("stem", "res2", "res3", "res4", "res5"), least=1): (
        "MODEL.RESNETS.OUT_FEATURES",
    ),
}  # fmt: skip


def validate(cfg: CfgNode) -> None:
    """Check the values of the keys that this package reads.

    Raises:
        ValueError: some are out of range; the message has one line for each.
    """
    problems = dict(_not_finite(cfg))
    for rule, keys in _KEYS.items():
        for key in keys:
            value = get_value(cfg, key)
            if key not in problems and not rule.holds(value):
                problems[key] = f"{key} is {value!r}, but must be {rule.text}"
    if not problems and cfg.INPUT.MIN_SCALE > cfg.INPUT.MAX_SCALE:
        problems["INPUT.MIN_SCALE"] = (
            f"INPUT.MIN_SCALE, {cfg.INPUT.MIN_SCALE}, is above MAX_SCALE, {cfg.INPUT.MAX_SCALE}"
        )
    annealing = cfg.MODEL.MASK_FORMER.ANNEALING
    if not problems and annealing.START > annealing.END:
        problems["START"] = (
            f"{_MASK_FORMER}ANNEALING.START, {annealing.START}, is above END, {annealing.END}"
        )
    if problems:
        raise ValueError("\n".join(problems.values()))


def check_early_stopping(cfg: CfgNode) -> None:
    """Check that early stopping has something to watch, once the settings of a run are known.

    Raises:
        ValueError: `SOLVER.EARLY_STOPPING_PATIENCE` is set, and what it needs is not.
    """
    needed = {
        "a validation set": cfg.DATASETS.TEST,
        "a value of SOLVER.BEST_METRIC, such as segm/AP": cfg.SOLVER.BEST_METRIC,
        "a value of TEST.EVAL_PERIOD": cfg.TEST.EVAL_PERIOD,
    }
    missing = " and ".join(name for name, value in needed.items() if not value)
    if cfg.SOLVER.EARLY_STOPPING_PATIENCE and missing:
        raise ValueError(f"SOLVER.EARLY_STOPPING_PATIENCE needs {missing}")


def check_world_size(cfg: CfgNode) -> None:
    """Check that the batch can be scaled with the processes, once the settings of a run are known.

    Raises:
        ValueError: it cannot, where Detectron2 has an assertion.
    """
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference and batch % reference:
        raise ValueError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, but SOLVER.IMS_PER_BATCH, {batch}, must "
            "be a multiple of it; 0 leaves the batch as it is"
        )


def _not_finite(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _not_finite(value, f"{prefix}{key}.")
            continue
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                yield f"{prefix}{key}", f"{prefix}{key} is {value!r}, but must be finite"
