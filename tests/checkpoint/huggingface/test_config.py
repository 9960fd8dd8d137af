"""Configs of Hugging Face's Mask2Former: the same model, the same pixels, both ways."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from hf_models import (
    BACKBONES,
    CLASSES,
    PUBLISHED,
    STAGES,
    config_of_hf_folder,
    model_config,
    published_config,
    resnet_config,
    swin_config,
)
from support import REPOSITORY
from transformers import (
    AutoImageProcessor,
    Mask2FormerConfig,
    Mask2FormerImageProcessor,
    ResNetConfig,
    SwinConfig,
)

from mask2former import load_config
from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.huggingface import config_keys
from mask2former.checkpoint.huggingface.config import (
    class_names_of,
    hf_config,
    hf_preprocessor,
    task_of_cfg,
)
from mask2former.inference.predictor import Predictor

CONFIGS = REPOSITORY / "configs/coco/instance-segmentation"


def write(folder: Path, config: Mask2FormerConfig, **processor) -> Path:
    config.save_pretrained(folder)
    Mask2FormerImageProcessor(**processor).save_pretrained(folder)
    return folder


def edit(folder: Path, changes: dict, file: str = "config.json") -> Path:
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


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "model", model_config(swin_config(), mask2former_task="instance"))


def published_yaml(name: str) -> CfgNode:
    (file,) = CONFIGS.rglob(f"{name}.yaml")
    return load_config(str(file))


def of_the_model(cfg: CfgNode) -> dict:
    """What of a config makes the model, and prepares its images."""
    swin = cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer"
    keys = ("META_ARCHITECTURE", "BACKBONE", "SEM_SEG_HEAD", "MASK_FORMER", "PIXEL_MEAN")
    keys += ("PIXEL_STD", "SWIN" if swin else "RESNETS")
    inputs = ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
    return {key: cfg.MODEL[key] for key in keys} | {key: cfg.INPUT[key] for key in inputs}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_configs(name, tmp_path):
    folder = write(tmp_path, published_config(name))
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
    cfg = config_of_hf_folder(write(tmp_path, theirs), "semantic")
    content = hf_config(cfg, class_names_of(tmp_path))
    for key, value in json.loads((tmp_path / "config.json").read_text()).items():
        if key == "backbone_config":
            wanted = {k: value[k] for k in content[key]}
            assert content[key] == wanted
        elif key in content:
            assert content[key] == value, key
    assert content["mask2former_task"] == "semantic"


def test_defaults_are_those_of_transformers():
    """Version 4 does not write the values of a backbone that are its defaults."""
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
    write(tmp_path, Mask2FormerConfig(backbone_config=ResNetConfig(out_features=STAGES)))
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
def test_what_we_cannot_be_is_named(folder, key):
    value = UNSUPPORTED[key]
    changes = {key: value}
    if key.endswith("out_features"):
        changes["backbone_config.out_indices"] = [4]
    edit(folder, changes)
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
    write(tmp_path, model_config(resnet_config(**changes)))
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
def test_what_they_cannot_be_is_named(overrides, message):
    file = CONFIGS / "maskformer2_R50_bs16_50ep.yaml"
    cfg = load_config(str(file), overrides)
    with pytest.raises(WeightsError, match=message):
        hf_config(cfg, ["x"] * 80)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"config\.json is missing"),
        ("preprocessor_config.json", None, r"preprocessor_config\.json is missing"),
        ("config.json", "{", r"config\.json cannot be read as JSON"),
        ("config.json", "[]", "no keys and values"),
    ],
)
def test_broken_folders(folder, file, content, message):
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(WeightsError, match=message):
        config_of_hf_folder(folder)


def test_dropout_is_kept_and_told(folder, caplog):
    edit(folder, {"dropout": 0.1})
    with caplog.at_level(logging.WARNING):
        assert config_of_hf_folder(folder).MODEL.MASK_FORMER.DROPOUT == 0.1
    assert "'dropout' is 0.1" in caplog.text


# --- Task and classes ---


@pytest.mark.parametrize(
    ("task", "on"),
    [
        ("instance", {"INSTANCE_ON"}),
        ("panoptic", {"INSTANCE_ON", "PANOPTIC_ON", "SEMANTIC_ON"}),
        ("semantic", {"SEMANTIC_ON"}),
    ],
)
def test_task_sets_what_the_published_configs_have_on(folder, task, on):
    edit(folder, {"mask2former_thing_classes": [0, 1]})
    cfg = config_of_hf_folder(folder, task)
    test = cfg.MODEL.MASK_FORMER.TEST
    assert {key for key in test if key.endswith("_ON") and test[key]} == on
    assert (test.OBJECT_MASK_THRESHOLD, test.OVERLAP_THRESHOLD) == (0.8, 0.8)
    assert task_of_cfg(cfg) == task


@pytest.mark.parametrize(
    ("name", "content", "task"),
    [
        ("mask2former-swin-base-coco-instance", {}, "instance"),
        ("Mask2Former_Semantic_v2", {}, "semantic"),
        ("x", {"_name_or_path": "facebook/mask2former-swin-large-ade-semantic"}, "semantic"),
        ("semantic", {"_name_or_path": "facebook/mask2former-swin-base-coco-instance"}, "instance"),
        ("semantic", {"mask2former_task": "instance"}, "instance"),
        ("models--facebook--mask2former-swin-tiny-coco-instance/snapshots/22c4a2f", {}, "instance"),
    ],
)
def test_where_the_task_is_found(tmp_path, name, content, task):
    folder = write(tmp_path / name, model_config(swin_config()))
    edit(folder, content)
    assert task_of_cfg(config_of_hf_folder(folder)) == task


@pytest.mark.parametrize("name", ["model", "instances", "instance-and-semantic"])
def test_a_task_that_is_not_said_is_asked_for(tmp_path, name):
    folder = write(tmp_path / name, model_config(swin_config()))
    with pytest.raises(WeightsError, match=r'--task, or add the line "mask2former_task"'):
        config_of_hf_folder(folder)
    with pytest.raises(WeightsError, match="the task is 'depth'"):
        config_of_hf_folder(folder, "depth")


def test_thing_classes_come_from_the_file_or_a_known_data_set(tmp_path):
    coco = MetadataCatalog.get("coco_2017_val_panoptic")
    labels = dict(enumerate(coco.stuff_classes))
    folder = write(tmp_path / "coco-panoptic", model_config(swin_config(), id2label=labels))
    cfg = config_of_hf_folder(folder)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    assert metadata.stuff_classes == coco.stuff_classes
    assert list(metadata.thing_dataset_id_to_contiguous_id) == list(range(80))

    mine = write(tmp_path / "mine-panoptic", model_config(swin_config()))
    with pytest.raises(WeightsError, match="which of its 5 classes are things"):
        config_of_hf_folder(mine)
    edit(mine, {"mask2former_thing_classes": [0, 5]})
    with pytest.raises(WeightsError, match="numbers below 5"):
        config_of_hf_folder(mine)
    edit(mine, {"mask2former_thing_classes": [0, 1]})
    cfg = config_of_hf_folder(mine)
    cfg.MODEL.DEVICE = "cpu"
    assert list(build_model(cfg).thing_classes) == [0, 1]
    assert hf_config(cfg, CLASSES, [1, 0])["mask2former_thing_classes"] == [0, 1]


def test_class_names_are_registered_anew_each_time(folder):
    assert class_names_of(folder) == list(CLASSES)
    metadata = MetadataCatalog.get(config_of_hf_folder(folder).DATASETS.TEST[0])
    assert metadata.thing_classes == list(CLASSES)
    edit(folder, {"id2label": {"1": "b", "0": "a"}})
    cfg = config_of_hf_folder(folder)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes == ["a", "b"]


# --- Images ---


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Eyes(torch.nn.Module):
    """Keeps what the model sees after normalisation."""

    size_divisibility = 32

    def forward(self, image):
        self.seen = image
        raise StopIteration


def seen_by_our_model(cfg: CfgNode, rgb: np.ndarray) -> torch.Tensor:
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    model.backbone = Eyes()
    predict = Predictor(
        model,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        image_format=cfg.INPUT.FORMAT,
    )
    with pytest.raises(StopIteration):
        predict(rgb[:, :, ::-1])
    return model.backbone.seen


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"shortest_edge": 64, "longest_edge": 96}},
        {"do_resize": False},
        {"do_resize": False, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"do_resize": False, "do_normalize": False},
        {"do_resize": False, "rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0]},
        {"do_resize": False, "do_rescale": False, "image_mean": [120.0, 110.0, 100.0]},
    ],
)
def test_the_same_image_becomes_the_same_pixels(tmp_path, processor):
    theirs = model_config(swin_config(), mask2former_task="instance")
    cfg = config_of_hf_folder(write(tmp_path, theirs, **processor))
    image = photograph(64, 96)
    expected = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")
    seen = seen_by_our_model(cfg, image)
    torch.testing.assert_close(seen, expected["pixel_values"], rtol=1e-5, atol=1e-5)

    # and what we write back prepares images as what we read
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(hf_preprocessor(cfg)))
    again = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), Mask2FormerImageProcessor)
    torch.testing.assert_close(again["pixel_values"], seen, rtol=1e-5, atol=1e-5)
    assert of_the_model(config_of_hf_folder(tmp_path)) == of_the_model(cfg)


def test_the_published_squeeze_to_a_square_is_not_followed(folder, caplog):
    """It changes proportions, which neither the paper nor the published configs do."""
    mean = [0.48500001430511475, 0.4560000002384186, 0.4059999883174896]
    published = {"size": {"height": 384, "width": 384}, "image_mean": mean, "num_labels": 80}
    edit(folder, published, "preprocessor_config.json")
    with caplog.at_level(logging.WARNING):
        cfg = config_of_hf_folder(folder)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert "INPUT.MIN_SIZE_TEST" in caplog.text and "384 x 384" in caplog.text
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"size": 640, "max_size": 2560}, (640, 2560)),  # before version 4.27
        ({"size": {"shortest_edge": 512}, "_max_size": 2048}, (512, 2048)),
        ({"size": {"shortest_edge": 1024, "longest_edge": 2048}}, (1024, 2048)),
    ],
)
def test_sizes(folder, changes, size):
    edit(folder, changes, "preprocessor_config.json")
    cfg = config_of_hf_folder(folder)
    assert size == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resample", 3),
        ("size", {"max_height": 10, "max_width": 10}),
        ("image_mean", 0.5),
    ],
)
def test_preparation_that_ours_cannot_do_is_named(folder, key, value):
    edit(folder, {key: value}, "preprocessor_config.json")
    with pytest.raises(WeightsError, match=rf"preprocessor_config\.json: '{key}'"):
        config_of_hf_folder(folder)


@pytest.mark.parametrize(("ours", "theirs"), [(32, 32), (0, 0), (-1, 32)])
def test_size_divisor(folder, ours, theirs):
    cfg = config_of_hf_folder(folder)
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = ours
    assert hf_preprocessor(cfg)["size_divisor"] == theirs
    edit(folder, {"size_divisor": theirs}, "preprocessor_config.json")
    assert theirs == config_of_hf_folder(folder).MODEL.MASK_FORMER.SIZE_DIVISIBILITY


def test_bgr_models_cannot_be_theirs(folder):
    cfg = config_of_hf_folder(folder)
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(WeightsError, match=r"INPUT\.FORMAT is 'BGR'"):
        hf_preprocessor(cfg)
