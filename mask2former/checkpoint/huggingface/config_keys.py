"""The keys of Hugging Face's `config.json` and ours, in tables that are used both ways."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ...utils.schema import shown
from ..files import WeightsError
from .schema import MOST_PARAMETERS

# Their key: (its value where the file lacks it, our key).
_Keys = dict[str, tuple[Any, str]]
_HEAD, _FORMER = "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
_MODEL_KEYS: _Keys = {
    "feature_size": (256, f"{_HEAD}.CONVS_DIM"),
    "mask_feature_size": (256, f"{_HEAD}.MASK_DIM"),
    "encoder_layers": (6, f"{_HEAD}.TRANSFORMER_ENC_LAYERS"),
    "encoder_feedforward_dim": (1024, f"{_HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD"),
    "common_stride": (4, f"{_HEAD}.COMMON_STRIDE"),
    "ignore_value": (255, f"{_HEAD}.IGNORE_VALUE"),
    "num_queries": (100, f"{_FORMER}.NUM_OBJECT_QUERIES"),
    "hidden_dim": (256, f"{_FORMER}.HIDDEN_DIM"),
    "decoder_layers": (10, f"{_FORMER}.DEC_LAYERS"),
    "num_attention_heads": (8, f"{_FORMER}.NHEADS"),
    "dim_feedforward": (2048, f"{_FORMER}.DIM_FEEDFORWARD"),
    "dropout": (0.0, f"{_FORMER}.DROPOUT"),
    "pre_norm": (False, f"{_FORMER}.PRE_NORM"),
    "enforce_input_projection": (False, f"{_FORMER}.ENFORCE_INPUT_PROJ"),
    "use_auxiliary_loss": (True, f"{_FORMER}.DEEP_SUPERVISION"),
    "no_object_weight": (0.1, f"{_FORMER}.NO_OBJECT_WEIGHT"),
    "class_weight": (2.0, f"{_FORMER}.CLASS_WEIGHT"),
    "mask_weight": (5.0, f"{_FORMER}.MASK_WEIGHT"),
    "dice_weight": (5.0, f"{_FORMER}.DICE_WEIGHT"),
    "train_num_points": (12544, f"{_FORMER}.TRAIN_NUM_POINTS"),
    "oversample_ratio": (3.0, f"{_FORMER}.OVERSAMPLE_RATIO"),
    "importance_sample_ratio": (0.75, f"{_FORMER}.IMPORTANCE_SAMPLE_RATIO"),
    "mask2former_object_mask_threshold": (0.8, f"{_FORMER}.TEST.OBJECT_MASK_THRESHOLD"),
    "mask2former_overlap_threshold": (0.8, f"{_FORMER}.TEST.OVERLAP_THRESHOLD"),
}
_SWIN_KEYS: _Keys = {
    "image_size": (224, "MODEL.SWIN.PRETRAIN_IMG_SIZE"),
    "embed_dim": (96, "MODEL.SWIN.EMBED_DIM"),
    "depths": ([2, 2, 6, 2], "MODEL.SWIN.DEPTHS"),
    "num_heads": ([3, 6, 12, 24], "MODEL.SWIN.NUM_HEADS"),
    "window_size": (7, "MODEL.SWIN.WINDOW_SIZE"),
    "mlp_ratio": (4.0, "MODEL.SWIN.MLP_RATIO"),
    "qkv_bias": (True, "MODEL.SWIN.QKV_BIAS"),
    "hidden_dropout_prob": (0.0, "MODEL.SWIN.DROP_RATE"),
    "attention_probs_dropout_prob": (0.0, "MODEL.SWIN.ATTN_DROP_RATE"),
    "drop_path_rate": (0.1, "MODEL.SWIN.DROP_PATH_RATE"),
}
# Keys of theirs for which we support one value only, which is also their default.
_MODEL_FIXED = {
    "model_type": "mask2former",
    "activation_function": "relu",
    "feature_strides": [4, 8, 16, 32],
}
# Keys that name a backbone in other ways than `backbone_config`.
_OTHER_BACKBONES = {"backbone": None, "use_timm_backbone": False}
_SWIN_FIXED = {
    "patch_size": 4,
    "num_channels": 3,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}
_RESNET_FIXED = {"num_channels": 3, "hidden_act": "relu", "downsample_in_first_stage": False}
_STAGES = {"out_features": [f"stage{i}" for i in range(1, 5)], "out_indices": [1, 2, 3, 4]}
# Their backbone where `backbone_config` is missing: Swin-S.
_DEFAULT_BACKBONE = {
    "model_type": "swin",
    "depths": [2, 2, 18, 2],
    "drop_path_rate": 0.3,
    **_STAGES,
}

# What all of their models have in common, in our keys.
_OURS_FIXED = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    f"{_HEAD}.NAME": "MaskFormerHead",
    f"{_HEAD}.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    f"{_HEAD}.NORM": "GN",
    f"{_HEAD}.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    f"{_HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    f"{_HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
    f"{_FORMER}.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    f"{_FORMER}.TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
}
_OURS_FIXED_SWIN = {
    "MODEL.BACKBONE.NAME": "D2SwinTransformer",
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWIN.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
}
_OURS_FIXED_RESNET = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False] * 4,
}
# Set as in the published configs; their models have no such settings.
_AS_PUBLISHED = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.STEM_TYPE": "basic",
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1],
}
# The kind of blocks and their number per stage, for the depths that Detectron2 knows.
_RESNETS = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
    101: ("bottleneck", [3, 4, 23, 3]),
    152: ("bottleneck", [3, 8, 36, 3]),
}
_BOTTLENECK = 4  # channels of a stage / channels inside its bottlenecks


def set_from_hf(cfg: CfgNode, content: Mapping[str, Any], path: Path) -> None:
    """Set our keys of the model, except its classes and its task, from a `config.json`.

    Args:
        cfg: the config to change in place.
        content: the content of the file.
        path: the path of the file, for messages.

    Raises:
        WeightsError: a key has a value that our config cannot express.
    """
    _check_theirs(content, {**_MODEL_FIXED, **_OTHER_BACKBONES}, str(path))
    _set(cfg, {**_OURS_FIXED, **_AS_PUBLISHED})
    _translate(cfg, content, _MODEL_KEYS)
    heads = cfg.MODEL.MASK_FORMER.NHEADS
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = heads
    backbone = content.get("backbone_config") or _DEFAULT_BACKBONE
    where = f"{path}: backbone_config"
    kind = backbone.get("model_type")
    if kind not in ("swin", "resnet"):
        raise WeightsError(
            f"{where}: 'model_type' is {shown(kind)}; supported are 'swin' and 'resnet'"
        )
    if not any(backbone.get(key) == value for key, value in _STAGES.items()):
        raise WeightsError(
            f"{where}: 'out_features' is {shown(backbone.get('out_features'))}; supported are the "
            f"four stages, {_STAGES['out_features']}"
        )
    if kind == "swin":
        _check_theirs(backbone, _SWIN_FIXED, where)
        _set(cfg, _OURS_FIXED_SWIN)
        _translate(cfg, backbone, _SWIN_KEYS)
    else:
        _check_theirs(backbone, _RESNET_FIXED, where)
        _set(cfg, _OURS_FIXED_RESNET)
        _set_resnet(cfg, backbone, where)


def check_model(cfg: CfgNode, path: Path) -> None:
    """Check that a model can be built: what must divide does, and it fits into memory.

    Raises:
        WeightsError: the `config.json` at `path` describes a model that cannot be built.
    """
    head, former, swin = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER, cfg.MODEL.SWIN
    divisors = [
        ("hidden_dim", former.HIDDEN_DIM, "num_attention_heads", former.NHEADS),
        ("feature_size", head.CONVS_DIM, "num_attention_heads", former.NHEADS),
        ("feature_size", head.CONVS_DIM, "the number of groups of its norms", 32),
        ("hidden_dim", former.HIDDEN_DIM, "the two axes of positions", 2),
    ]
    encoder = head.DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD + 2 * head.CONVS_DIM
    decoder = former.DIM_FEEDFORWARD + 4 * former.HIDDEN_DIM
    rows = 2 * former.NUM_OBJECT_QUERIES + head.NUM_CLASSES
    parameters = (
        2 * head.CONVS_DIM * encoder * head.TRANSFORMER_ENC_LAYERS
        + 2 * former.HIDDEN_DIM * decoder * former.DEC_LAYERS
        + former.HIDDEN_DIM * (rows + 3 * former.HIDDEN_DIM)
        + 9 * head.CONVS_DIM * (head.CONVS_DIM + head.MASK_DIM)
    )
    if cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer":
        for stage, (depth, heads) in enumerate(zip(swin.DEPTHS, swin.NUM_HEADS, strict=True)):
            width = swin.EMBED_DIM * 2**stage
            divisors.append((f"embed_dim * {2**stage}", width, "num_heads", heads))
            positions = heads * 4 * swin.WINDOW_SIZE**2 + swin.WINDOW_SIZE**4
            parameters += depth * (int((4 + 2 * swin.MLP_RATIO) * width**2) + positions)
    for name, value, divisor_name, divisor in divisors:
        if value % divisor:
            raise WeightsError(
                f"{path}: {name}, {value}, is not divisible by {divisor_name}, {divisor}"
            )
    if parameters > MOST_PARAMETERS:
        raise WeightsError(
            f"{path} describes a model of {parameters:.1e} parameters; at most "
            f"{MOST_PARAMETERS:.0e} are supported"
        )


def get_for_hf(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys of a `config.json` for a model of ours, except its classes and its task.

    Raises:
        WeightsError: Hugging Face's Mask2Former cannot be such a model.
    """
    _check_ours(cfg, _OURS_FIXED)
    heads = cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS
    if heads != cfg.MODEL.MASK_FORMER.NHEADS:
        raise WeightsError(
            f"{_HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS is {heads} and {_FORMER}.NHEADS "
            f"{cfg.MODEL.MASK_FORMER.NHEADS}: Hugging Face's model has one number of heads for both"
        )
    if cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer":
        _check_ours(cfg, _OURS_FIXED_SWIN)
        backbone = {"model_type": "swin", **_SWIN_FIXED, **_look_up(cfg, _SWIN_KEYS)}
    else:
        _check_ours(cfg, _OURS_FIXED_RESNET)
        backbone = {"model_type": "resnet", **_RESNET_FIXED, **_get_resnet(cfg)}
    return {
        **_MODEL_FIXED,
        **_look_up(cfg, _MODEL_KEYS),
        "backbone_config": {**backbone, **_STAGES},
    }


def _set_resnet(cfg: CfgNode, backbone: Mapping[str, Any], where: str) -> None:
    kind, blocks = backbone.get("layer_type", "bottleneck"), backbone.get("depths", [3, 4, 6, 3])
    depth = next((depth for depth, known in _RESNETS.items() if known == (kind, blocks)), None)
    if depth is None:
        raise WeightsError(
            f"{where}: 'layer_type' {shown(kind)} with 'depths' {blocks!r} is not one of "
            f"Detectron2's ResNets {', '.join(map(str, _RESNETS))}"
        )
    channels = backbone.get("hidden_sizes", [256, 512, 1024, 2048])
    first = channels[0]
    if channels != [first * 2**i for i in range(4)] or (kind == "basic" and first != 64):
        raise WeightsError(
            f"{where}: 'hidden_sizes' is {channels!r}; supported are channels that double from "
            "stage to stage, starting at 64 for 'basic' layers"
        )
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH = depth
    resnets.RES2_OUT_CHANNELS = first
    resnets.STEM_OUT_CHANNELS = backbone.get("embedding_size", 64)
    resnets.STRIDE_IN_1X1 = backbone.get("downsample_in_bottleneck", False)
    if kind == "bottleneck":
        resnets.WIDTH_PER_GROUP = first // _BOTTLENECK


def _get_resnet(cfg: CfgNode) -> dict[str, Any]:
    resnets = cfg.MODEL.RESNETS
    kind, blocks = _RESNETS[resnets.DEPTH]
    first = resnets.RES2_OUT_CHANNELS
    width = resnets.WIDTH_PER_GROUP
    if kind == "bottleneck" and width * _BOTTLENECK != first:
        raise WeightsError(
            f"MODEL.RESNETS.WIDTH_PER_GROUP is {width} and RES2_OUT_CHANNELS is {first}; in "
            f"Hugging Face's ResNet the second is {_BOTTLENECK} times the first"
        )
    return {
        "layer_type": kind,
        "depths": blocks,
        "hidden_sizes": [first * 2**i for i in range(4)],
        "embedding_size": resnets.STEM_OUT_CHANNELS,
        "downsample_in_bottleneck": resnets.STRIDE_IN_1X1,
    }


def _check_theirs(content: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    for key, value in fixed.items():
        found = content.get(key, value)
        if found != value:
            raise WeightsError(f"{where}: {key!r} is {shown(found)}; only {value!r} is supported")


def _check_ours(cfg: CfgNode, fixed: Mapping[str, Any]) -> None:
    for key, value in fixed.items():
        node, leaf = _node(cfg, key)
        if node[leaf] != value:
            raise WeightsError(f"{key} is {node[leaf]!r}; Hugging Face's model has only {value!r}")


def _translate(cfg: CfgNode, content: Mapping[str, Any], keys: _Keys) -> None:
    """Set our keys to the values of theirs."""
    for theirs, (default, ours) in keys.items():
        value = content.get(theirs, default)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if theirs == "image_size" and isinstance(value, list):
            value = value[0]
        _set(cfg, {ours: value})


def _look_up(cfg: CfgNode, keys: _Keys) -> dict[str, Any]:
    """Return their keys with the values of ours."""
    values = {}
    for theirs, (_, ours) in keys.items():
        node, leaf = _node(cfg, ours)
        values[theirs] = node[leaf]
    return values


def _set(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        node, leaf = _node(cfg, key)
        node[leaf] = copy.deepcopy(value)  # lists in the tables must not change with the config


def _node(cfg: CfgNode, key: str) -> tuple[CfgNode, str]:
    """Return the node that directly holds a dotted key, and the key's last part."""
    *path, leaf = key.split(".")
    for part in path:
        cfg = cfg[part]
    return cfg, leaf
