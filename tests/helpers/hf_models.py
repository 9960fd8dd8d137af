"""Models of Hugging Face's own classes with random weights, and their folders."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is to be downloaded
pytest.importorskip("transformers")

from detectron2.config import CfgNode, get_cfg
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    PreTrainedConfig,
    ResNetConfig,
    SwinConfig,
)

from mask2former import add_maskformer2_config
from mask2former.checkpoint.huggingface import merge_hf_config

STAGES = ["stage1", "stage2", "stage3", "stage4"]
CLASSES = ("cat", "dog", "tree", "sky", "sea")


def config_of_hf_folder(folder: str | Path, task: str | None = None) -> CfgNode:
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    merge_hf_config(cfg, folder, task)
    return cfg


def swin_config(**changes) -> SwinConfig:
    small = {"embed_dim": 16, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4}
    return SwinConfig(**{**small, "out_features": STAGES, **changes})


def resnet_config(**changes) -> ResNetConfig:
    small = {"embedding_size": 8, "hidden_sizes": [16, 32, 64, 128], "depths": [3, 4, 6, 3]}
    return ResNetConfig(**{**small, "out_features": STAGES, **changes})


def basic_resnet_config() -> ResNetConfig:
    sizes = {"embedding_size": 24, "hidden_sizes": [64, 128, 256, 512]}
    return resnet_config(layer_type="basic", depths=[2, 2, 2, 2], **sizes)


BACKBONES = {"swin": swin_config, "resnet": resnet_config, "basic resnet": basic_resnet_config}

_BASE = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
_WIDE = {"window_size": 12, "image_size": 384}
_LARGE = {"embed_dim": 192, "num_heads": [6, 12, 24, 48]}
_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
_RESNET = {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048]}


def published_config(name: str) -> Mask2FormerConfig:
    """Return their config, with 80 classes, of the published model with our config `name`."""
    backbones = {
        "maskformer2_R50_bs16_50ep": lambda: resnet_config(**_RESNET),
        "maskformer2_R101_bs16_50ep": lambda: resnet_config(**_RESNET, depths=[3, 4, 23, 3]),
        "maskformer2_swin_tiny_bs16_50ep": lambda: swin_config(**_TINY, drop_path_rate=0.3),
        "maskformer2_swin_small_bs16_50ep": lambda: swin_config(
            **{**_TINY, "depths": [2, 2, 18, 2]}, drop_path_rate=0.3
        ),
        "maskformer2_swin_base_384_bs16_50ep": lambda: swin_config(
            **_BASE, **_WIDE, drop_path_rate=0.3
        ),
        "maskformer2_swin_large_IN21k_384_bs16_100ep": lambda: swin_config(
            **{**_BASE, **_WIDE, **_LARGE}, drop_path_rate=0.3
        ),
    }
    queries = 200 if "large" in name else 100
    return Mask2FormerConfig(backbone_config=backbones[name](), num_queries=queries, num_labels=80)


PUBLISHED = (
    "maskformer2_R50_bs16_50ep",
    "maskformer2_R101_bs16_50ep",
    "maskformer2_swin_tiny_bs16_50ep",
    "maskformer2_swin_small_bs16_50ep",
    "maskformer2_swin_base_384_bs16_50ep",
    "maskformer2_swin_large_IN21k_384_bs16_100ep",
)


def model_config(backbone: PreTrainedConfig, **changes) -> Mask2FormerConfig:
    small = {
        "feature_size": 32,
        "mask_feature_size": 64,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 48,
        "dim_feedforward": 56,
        "encoder_layers": 2,
        "decoder_layers": 5,
        "num_attention_heads": 4,
        "num_queries": 7,
        "id2label": dict(enumerate(CLASSES)),
        "label2id": {name: i for i, name in enumerate(CLASSES)},
    }
    return Mask2FormerConfig(backbone_config=backbone, **{**small, **changes})


def write_folder(folder: Path, config: Mask2FormerConfig, **processor) -> Path:
    config.save_pretrained(folder)
    Mask2FormerImageProcessor(**processor).save_pretrained(folder)
    return folder


def edit_json(folder: Path, changes: dict, file: str = "config.json") -> Path:
    """Set keys of a file; `backbone_config.key` is a nested one."""
    content = json.loads((folder / file).read_text())
    for key, value in changes.items():
        *path, leaf = key.split(".")
        node = content
        for part in path:
            node = node[part]
        node[leaf] = value
    (folder / file).write_text(json.dumps(content))
    return folder


def of_the_model(cfg: CfgNode) -> dict:
    """Return the part of a config that makes the model and prepares its images."""
    swin = cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer"
    keys = ("META_ARCHITECTURE", "BACKBONE", "SEM_SEG_HEAD", "MASK_FORMER", "PIXEL_MEAN")
    keys += ("PIXEL_STD", "SWIN" if swin else "RESNETS")
    inputs = ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
    return {key: cfg.MODEL[key] for key in keys} | {key: cfg.INPUT[key] for key in inputs}


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Make every tensor matter: a new model has zero biases, and norms that change nothing."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias", "relative_position_bias_table")):
            tensor.add_(torch.randn_like(tensor), alpha=0.2)
        elif tensor.dim() == 1 and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif "sampling_offsets" in name or "attention_weights" in name:
            tensor.normal_(std=0.1)


def random_model(config: Mask2FormerConfig) -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(config)
    randomize(model)
    return model.eval()


def save(
    model: Mask2FormerForUniversalSegmentation, folder: Path, **processor
) -> dict[str, Tensor]:
    """Write the folder of a model, and return the tensors in its file."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    Mask2FormerImageProcessor(**processor).save_pretrained(folder)
    return load_file(folder / "model.safetensors")
