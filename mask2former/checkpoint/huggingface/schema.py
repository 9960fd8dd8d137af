"""What `config.json` and `preprocessor_config.json` may say, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...utils.schema import (
    FLAG,
    MOST_CLASSES,
    NULL,
    OBJECT,
    TEXT,
    Field,
    check_fields,
    either,
    list_of,
    number,
    whole,
)
from ..files import WeightsError

MOST_PARAMETERS = 2_000_000_000
"""Of a model that a `config.json` describes; Swin-L's has 216 million."""

_WIDTH, _LAYERS, _HEADS = whole(1, 8192), whole(1, 100), whole(1, 256)
_SHARE, _WEIGHT = number(0, 1), number(0, 1e6)
_SIDE = whole(1, 100_000)

_CONFIG = {
    "feature_size": _WIDTH,
    "mask_feature_size": _WIDTH,
    "hidden_dim": _WIDTH,
    "encoder_feedforward_dim": whole(1, 65536),
    "dim_feedforward": whole(1, 65536),
    "encoder_layers": whole(0, 100),
    "decoder_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_queries": whole(1, 20_000),
    "common_stride": whole(1, 1024),
    "ignore_value": whole(-(2**31), 2**31 - 1),
    "dropout": _SHARE,
    "pre_norm": FLAG,
    "enforce_input_projection": FLAG,
    "use_auxiliary_loss": FLAG,
    "no_object_weight": _WEIGHT,
    "class_weight": _WEIGHT,
    "mask_weight": _WEIGHT,
    "dice_weight": _WEIGHT,
    "train_num_points": whole(1, 10_000_000),
    "oversample_ratio": number(1, 1000),
    "importance_sample_ratio": _SHARE,
    "mask2former_object_mask_threshold": _SHARE,
    "mask2former_overlap_threshold": _SHARE,
    "mask2former_score_thresholds": either(list_of(either(_SHARE, NULL)), NULL),
    "mask2former_task": TEXT,
    "mask2former_thing_classes": list_of(whole(0, MOST_CLASSES)),
    "_name_or_path": either(TEXT, NULL),
    "backbone_config": either(OBJECT, NULL),
    "id2label": either(
        Field(
            f"the names of up to {MOST_CLASSES} classes",
            lambda v: (
                isinstance(v, dict) and len(v) <= MOST_CLASSES and all(map(TEXT.holds, v.values()))
            ),
        ),
        NULL,
    ),
}
_BACKBONE = {
    "image_size": Field(
        "a whole number from 1 to 100000, or a list of equal ones",
        lambda v: (
            _SIDE.holds(v)
            or (isinstance(v, list) and len(v) == 2 and v[0] == v[1] and _SIDE.holds(v[0]))
        ),
    ),
    "embed_dim": _WIDTH,
    "depths": list_of(_LAYERS, 4),
    "num_heads": list_of(_HEADS, 4),
    "window_size": whole(1, 256),
    "mlp_ratio": number(0.01, 100),
    "qkv_bias": FLAG,
    "hidden_dropout_prob": _SHARE,
    "attention_probs_dropout_prob": _SHARE,
    "drop_path_rate": _SHARE,
    "hidden_sizes": list_of(_WIDTH, 4),
    "embedding_size": _WIDTH,
    "downsample_in_bottleneck": FLAG,
}
_PREPROCESSOR = {
    "do_resize": FLAG,
    "do_rescale": FLAG,
    "do_normalize": FLAG,
    "resample": whole(0, 10),
    "size": either(
        _SIDE,
        Field(
            "an object of whole numbers from 1 to 100000",
            lambda v: (
                isinstance(v, dict)
                and all(value is None or _SIDE.holds(value) for value in v.values())
            ),
        ),
    ),
    "max_size": _SIDE,
    "_max_size": _SIDE,
    "size_divisor": either(whole(0, 4096), NULL),
    "size_divisibility": either(whole(0, 4096), NULL),
    "rescale_factor": number(1e-9, 1e9),
    "image_mean": list_of(number(-1e9, 1e9), 3),
    "image_std": list_of(number(1e-9, 1e9), 3),
}


def check_config(content: Mapping[str, Any], path: Path) -> None:
    """Check the types and ranges of the keys of a `config.json` that are read.

    Raises:
        WeightsError: a value is of another type or out of range.
    """
    check_fields(content, _CONFIG, str(path), WeightsError)
    backbone = content.get("backbone_config") or {}
    check_fields(backbone, _BACKBONE, f"{path}: backbone_config", WeightsError)


def check_preprocessor(content: Mapping[str, Any], path: Path) -> None:
    """Check the types and ranges of the keys of a `preprocessor_config.json` that are read.

    Raises:
        WeightsError: a value is of another type or out of range.
    """
    check_fields(content, _PREPROCESSOR, str(path), WeightsError)
