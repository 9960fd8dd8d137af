"""The config files of models that are not published: each loads, and its model builds."""

import pytest
import torch
from detectron2.modeling import build_model
from support import REPOSITORY

from mask2former import load_config, model_zoo

CONFIGS = REPOSITORY / "configs"
FILES = {file.relative_to(CONFIGS).with_suffix("").as_posix() for file in CONFIGS.rglob("*.yaml")}
# What other files derive from.
PARTS = {f for f in FILES if f.startswith("common/") or f.rpartition("/")[2].startswith("Base-")}
PARTS.add("ade20k/res640")
MODELS = sorted(FILES - PARTS - set(model_zoo.model_names()))

# Millions of parameters.
PARAMETERS = {
    "ade20k/baselines/maskformer_R50_bs16_160k": 41.3,
    "ade20k/baselines/per_pixel_baseline_R50_bs16_160k": 31.0,
    "ade20k/baselines/per_pixel_baseline_plus_R50_bs16_160k": 41.2,
    "coco/encoder-only/panoptic_dinov2_large": 316.7,
    "coco/encoder-only/panoptic_dinov3_large": 315.0,
    "coco/pixel-decoders/maskformer2_R50_BiFPN_bs16_50ep": 41.9,
    "coco/pixel-decoders/maskformer2_R50_FPN_bs16_50ep": 45.5,
    "coco/pixel-decoders/maskformer2_R50_FaPN_bs16_50ep": 50.6,
    "coco/pixel-decoders/maskformer2_R50_SemanticFPN_bs16_50ep": 49.1,
    "coco/small-objects/maskformer2_R50_bs16_50ep": 43.6,
}

# As published, without classifiers.
ENCODERS = {
    "convnextv2_base": 87.7,
    "convnextv2_tiny": 27.9,
    "dinov2_base": 86.6,
    "dinov2_large": 304.4,
    "dinov2_small": 22.1,
    "dinov3_base": 85.7,
    "dinov3_large": 303.1,
    "dinov3_small": 21.6,
    "efficientnet_lite0": 2.96,
}


@pytest.mark.parametrize("name", MODELS)
def test_model_builds(name):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    if name.startswith("timm/"):
        encoder = sum(parameter.numel() for parameter in model.backbone.net.parameters()) / 1e6
        assert encoder == pytest.approx(ENCODERS[name.rpartition("/")[2]], rel=0.01)
    elif not name.startswith("quickstart/"):
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert millions == pytest.approx(PARAMETERS[name], abs=0.05)


@pytest.mark.parametrize("name", sorted(PARTS))
def test_part_loads(name):
    load_config(str(CONFIGS / f"{name}.yaml"))


@pytest.mark.parametrize("name", [name for name in PARAMETERS if "pixel-decoders" in name])
def test_an_ablation_changes_only_the_pixel_decoder(name):
    original = model_zoo.get_config("coco/instance-segmentation/maskformer2_R50_bs16_50ep")
    cfg = model_zoo.get_config(name)
    assert cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME != "MSDeformAttnPixelDecoder"
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    assert cfg == original


def test_maskformer_has_the_settings_of_its_paper():
    cfg = model_zoo.get_config("ade20k/baselines/maskformer_R50_bs16_160k")
    settings = {
        "CLASS_WEIGHT": 1.0,
        "MASK_WEIGHT": 20.0,
        "DICE_WEIGHT": 1.0,
        "NO_OBJECT_WEIGHT": 0.1,
        "NUM_OBJECT_QUERIES": 100,
        "ENC_LAYERS": 0,
        "DEC_LAYERS": 6,
        "DROPOUT": 0.1,
        "HIDDEN_DIM": 256,
        "DIM_FEEDFORWARD": 2048,
        "NHEADS": 8,
    }
    assert {key: cfg.MODEL.MASK_FORMER[key] for key in settings} == settings
    solver = {"BASE_LR": 1e-4, "WEIGHT_DECAY": 1e-4, "BACKBONE_MULTIPLIER": 0.1, "MAX_ITER": 160000}
    assert {key: cfg.SOLVER[key] for key in solver} == solver
    assert cfg.INPUT.CROP.SIZE == [512, 512]
