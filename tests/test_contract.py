"""Published checkpoints load: names, shapes and dtypes are those of the published models."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model
from detectron2.modeling.backbone import BACKBONE_REGISTRY

from mask2former import load_config
from mask2former.modeling.transformer_decoder import TRANSFORMER_DECODER_REGISTRY

CONFIGS = Path(__file__).parents[1] / "configs/coco/instance-segmentation"
STATE_DICTS = Path(__file__).parent / "fixtures/state_dicts"
# Millions of parameters in the paper's tables.
PARAMETERS = {
    "maskformer2_R50_bs16_50ep": 44,
    "maskformer2_R101_bs16_50ep": 63,
    "swin/maskformer2_swin_tiny_bs16_50ep": 47,
    "swin/maskformer2_swin_small_bs16_50ep": 69,
    "swin/maskformer2_swin_base_384_bs16_50ep": 107,
    "swin/maskformer2_swin_base_IN21k_384_bs16_50ep": 107,
    "swin/maskformer2_swin_large_IN21k_384_bs16_100ep": 216,
}


def published(config: str) -> dict:
    # The models for both pre-trainings of Swin-B are the same.
    name = config.removeprefix("swin/").replace("base_IN21k", "base")
    with gzip.open(STATE_DICTS / f"{name}.json.gz") as file:
        return json.load(file)


def test_every_config_is_checked():
    files = [f for f in CONFIGS.rglob("*.yaml") if not f.name.startswith("Base")]
    assert {str(f.relative_to(CONFIGS).with_suffix("")) for f in files} == set(PARAMETERS)


@pytest.mark.parametrize("config", PARAMETERS)
def test_model_has_the_published_parameters(config):
    cfg = load_config(str(CONFIGS / f"{config}.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    reference = published(config)

    actual = {
        name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in model.state_dict().items()
    }
    assert actual == reference["tensors"]
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == reference["parameters"]
    assert round(count / 1e6) == PARAMETERS[config]


def test_registered_names():
    assert "MaskFormer" in META_ARCH_REGISTRY
    assert "D2SwinTransformer" in BACKBONE_REGISTRY
    assert "MaskFormerHead" in SEM_SEG_HEADS_REGISTRY
    assert "MSDeformAttnPixelDecoder" in SEM_SEG_HEADS_REGISTRY
    assert "MultiScaleMaskedTransformerDecoder" in TRANSFORMER_DECODER_REGISTRY
