"""The tables of keys: the same model and the same config in both libraries, both ways."""

import json

import pytest
import yaml
from detectron2.config import CfgNode
from hf_models import (
    BACKBONES,
    PUBLISHED,
    STAGES,
    config_of_hf_folder,
    edit_json,
    model_config,
    of_the_model,
    published_config,
    resnet_config,
    write_folder,
)
from support import REPOSITORY
from transformers import Mask2FormerConfig, ResNetConfig, SwinConfig

from mask2former import load_config
from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.huggingface import class_names_of, config_keys, hf_config

CONFIGS = REPOSITORY / "configs/coco/instance-segmentation"


def published_yaml(name: str) -> CfgNode:
    (file,) = CONFIGS.rglob(f"{name}.yaml")
    return load_config(str(file))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_configs(name, tmp_path):
    folder = write_folder(tmp_path, published_config(name))
    cfg = config_of_hf_folder(folder, "instance")
    assert of_the_model(cfg) == of_the_model(published_yaml(name))
    assert str(folder) == cfg.MODEL.WEIGHTS
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = load_config(str(tmp_path / "config.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_configs_are_those_of_transformers(name):
    content = hf_config(published_yaml(name), [f"LABEL_{i}" for i in range(80)])
    assert content.pop("mask2former_task") == "instance"
    actual = Mask2FormerConfig(**content).to_dict()
    expected = published_config(name).to_dict()
    for key in ("architectures", "mask2former_object_mask_threshold"):
        actual.pop(key), expected.pop(key, None)
    assert actual.pop("mask2former_overlap_threshold") == 0.8
    for config in (actual["backbone_config"], expected["backbone_config"]):
        config.pop("transformers_version", None)
    assert actual == expected


@pytest.mark.parametrize("backbone", BACKBONES)
def test_there_and_back(backbone, tmp_path):
    theirs = model_config(
        BACKBONES[backbone](),
        pre_norm=True,
        enforce_input_projection=True,
        use_auxiliary_loss=False,
        common_stride=8,
        ignore_value=254,
        no_object_weight=0.2,
        class_weight=3.0,
        mask_weight=4.0,
        dice_weight=6.0,
        train_num_points=100,
        oversample_ratio=2.0,
        importance_sample_ratio=0.5,
    )
    cfg = config_of_hf_folder(write_folder(tmp_path, theirs), "semantic")
    content = hf_config(cfg, class_names_of(tmp_path))
    for key, value in json.loads((tmp_path / "config.json").read_text()).items():
        if key == "backbone_config":
            wanted = {k: value[k] for k in content[key]}
            assert content[key] == wanted
        elif key in content:
            assert content[key] == value, key
    assert content["mask2former_task"] == "semantic"


def test_defaults_are_those_of_transformers():
    """Version 4 of transformers does not write those values of a backbone that are defaults."""
    for keys, config in (
        (config_keys._MODEL_KEYS, Mask2FormerConfig()),
        (config_keys._SWIN_KEYS, SwinConfig()),
    ):
        for key, (default, _) in keys.items():
            if not key.startswith("mask2former_"):
                value = getattr(config, key)
                assert (list(value) if isinstance(value, tuple) else value) == default, key
    for fixed, config in (
        (config_keys._SWIN_FIXED, SwinConfig()),
        (config_keys._RESNET_FIXED, ResNetConfig()),
    ):
        assert fixed == {key: getattr(config, key) for key in fixed}


def test_missing_keys_mean_their_defaults(tmp_path):
    write_folder(tmp_path, Mask2FormerConfig(backbone_config=ResNetConfig(out_features=STAGES)))
    expected = of_the_model(config_of_hf_folder(tmp_path, "instance"))
    sparse = {
        "model_type": "mask2former",
        "backbone_config": {"model_type": "resnet", "out_indices": [1, 2, 3, 4]},
    }
    (tmp_path / "config.json").write_text(json.dumps(sparse))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert of_the_model(config_of_hf_folder(tmp_path, "instance")) == expected
    assert class_names_of(tmp_path) == ["LABEL_0", "LABEL_1"]  # two is their default
    del sparse["backbone_config"]
    (tmp_path / "config.json").write_text(json.dumps(sparse))
    swin = config_of_hf_folder(tmp_path, "instance").MODEL.SWIN
    assert (swin.DEPTHS, swin.DROP_PATH_RATE) == ([2, 2, 18, 2], 0.3)


UNSUPPORTED = {
    "activation_function": "gelu",
    "feature_strides": [8, 16, 32, 64],
    "backbone": "resnet50",
    "use_timm_backbone": True,
    "model_type": "maskformer",
    "num_queries": "many",
    "class_weight": [1.0, 2.0],
    "id2label": {"1": "cat"},
    "mask2former_task": "depth",
    "backbone_config.model_type": "dinov2",
    "backbone_config.out_features": ["stage4"],
    "backbone_config.patch_size": 2,
    "backbone_config.hidden_act": "relu",
    "backbone_config.use_absolute_embeddings": True,
    "backbone_config.layer_norm_eps": 1e-6,
    "backbone_config.image_size": [224, 384],
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_values_that_our_config_cannot_express_are_named(folder, key):
    value = UNSUPPORTED[key]
    changes = {key: value}
    if key.endswith("out_features"):
        changes["backbone_config.out_indices"] = [4]
    edit_json(folder, changes)
    leaf = key.rpartition(".")[2]
    with pytest.raises(WeightsError, match=rf"config\.json.*'{leaf}'") as caught:
        config_of_hf_folder(folder)
    assert key == "id2label" or str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": [3, 3, 3, 3]}, r"'bottleneck' with 'depths' \[3, 3, 3, 3\]"),
        ({"layer_type": "basic"}, r"'hidden_sizes' is \[16, 32"),
        ({"hidden_sizes": [16, 32, 64, 64]}, r"'hidden_sizes' is \[16, 32, 64, 64\]"),
        ({"downsample_in_first_stage": True}, "'downsample_in_first_stage' is True"),
        ({"hidden_act": "silu"}, "'hidden_act' is 'silu'"),
    ],
)
def test_resnets_that_detectron2_lacks_are_named(tmp_path, changes, message):
    write_folder(tmp_path, model_config(resnet_config(**changes)))
    with pytest.raises(WeightsError, match=message):
        config_of_hf_folder(tmp_path, "instance")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.MASK_FORMER.NHEADS", 4], "one number of heads"),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res3', 'res4', 'res5']"], "IN_FEATURES is"),
        (["MODEL.SEM_SEG_HEAD.NORM", "BN"], "NORM is 'BN'"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3], "NUM_CLASSES is 3, but there are 80 names"),
        (["MODEL.RESNETS.WIDTH_PER_GROUP", 32], "WIDTH_PER_GROUP is 32"),
        (["MODEL.RESNETS.RES5_DILATION", 2], "RES5_DILATION is 2"),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"], "BACKBONE.NAME is 'build_resnet_f"),
        (["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", True], "classes are things"),
    ],
)
def test_values_that_their_config_cannot_express_are_named(overrides, message):
    file = CONFIGS / "maskformer2_R50_bs16_50ep.yaml"
    cfg = load_config(str(file), overrides)
    with pytest.raises(WeightsError, match=message):
        hf_config(cfg, ["x"] * 80)
