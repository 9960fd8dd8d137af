"""The `config.json` of a Hugging Face folder: task, classes, and messages about mistakes."""

import logging

import pytest
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from hf_models import (
    CLASSES,
    config_of_hf_folder,
    edit_json,
    model_config,
    swin_config,
    write_folder,
)

from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.huggingface import class_names_of, hf_config, task_of_cfg


@pytest.mark.parametrize(
    ("task", "on"),
    [
        ("instance", {"INSTANCE_ON"}),
        ("panoptic", {"INSTANCE_ON", "PANOPTIC_ON", "SEMANTIC_ON"}),
        ("semantic", {"SEMANTIC_ON"}),
    ],
)
def test_task_sets_what_the_published_configs_have_on(folder, task, on):
    edit_json(folder, {"mask2former_thing_classes": [0, 1]})
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
    folder = write_folder(tmp_path / name, model_config(swin_config()))
    edit_json(folder, content)
    assert task_of_cfg(config_of_hf_folder(folder)) == task


@pytest.mark.parametrize("name", ["model", "instances", "instance-and-semantic"])
def test_a_missing_task_is_asked_for(tmp_path, name):
    folder = write_folder(tmp_path / name, model_config(swin_config()))
    with pytest.raises(WeightsError, match=r'--task, or add the line "mask2former_task"'):
        config_of_hf_folder(folder)
    with pytest.raises(WeightsError, match="the task is 'depth'"):
        config_of_hf_folder(folder, "depth")


def test_thing_classes_come_from_the_file_or_a_known_data_set(tmp_path):
    coco = MetadataCatalog.get("coco_2017_val_panoptic")
    labels = dict(enumerate(coco.stuff_classes))
    folder = write_folder(tmp_path / "coco-panoptic", model_config(swin_config(), id2label=labels))
    cfg = config_of_hf_folder(folder)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    assert metadata.stuff_classes == coco.stuff_classes
    assert list(metadata.thing_dataset_id_to_contiguous_id) == list(range(80))

    mine = write_folder(tmp_path / "mine-panoptic", model_config(swin_config()))
    with pytest.raises(WeightsError, match="which of its 5 classes are things"):
        config_of_hf_folder(mine)
    edit_json(mine, {"mask2former_thing_classes": [0, 5]})
    with pytest.raises(WeightsError, match="numbers below 5"):
        config_of_hf_folder(mine)
    edit_json(mine, {"mask2former_thing_classes": [0, 1]})
    cfg = config_of_hf_folder(mine)
    cfg.MODEL.DEVICE = "cpu"
    assert list(build_model(cfg).thing_classes) == [0, 1]
    assert hf_config(cfg, CLASSES, [1, 0])["mask2former_thing_classes"] == [0, 1]


def test_class_names_are_registered_anew_each_time(folder):
    assert class_names_of(folder) == list(CLASSES)
    metadata = MetadataCatalog.get(config_of_hf_folder(folder).DATASETS.TEST[0])
    assert metadata.thing_classes == list(CLASSES)
    edit_json(folder, {"id2label": {"1": "b", "0": "a"}})
    cfg = config_of_hf_folder(folder)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes == ["a", "b"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"config\.json is missing"),
        ("preprocessor_config.json", None, r"preprocessor_config\.json is missing"),
        ("config.json", "{", r"config\.json is not JSON"),
        ("config.json", "[]", "not a JSON object of keys and values"),
    ],
)
def test_broken_folders(folder, file, content, message):
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(WeightsError, match=message):
        config_of_hf_folder(folder)


def test_dropout_is_kept_and_logged(folder, caplog):
    edit_json(folder, {"dropout": 0.1})
    with caplog.at_level(logging.WARNING):
        assert config_of_hf_folder(folder).MODEL.MASK_FORMER.DROPOUT == 0.1
    assert "'dropout' is 0.1" in caplog.text
