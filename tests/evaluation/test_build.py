"""The evaluators that fit a data set and a model."""

import json
import logging

import coco_sets
import numpy as np
import panoptic_sets
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from detectron2.modeling import build_model
from evaluator_configs import TASKS, make_cfg, switches
from PIL import Image

from mask2former.data import DatasetError, build_test_loader
from mask2former.evaluation import (
    COCOInstanceEvaluator,
    PanopticEvaluator,
    SemanticEvaluator,
    build_evaluator,
    check_evaluation,
)


def kinds(evaluator) -> list[type]:
    if isinstance(evaluator, DatasetEvaluators):
        return [type(e) for e in evaluator._evaluators]
    return [type(evaluator)]


@pytest.fixture
def panoptic_set(tmp_path):
    name = "test_build_evaluator"
    panoptic_sets.register(name, tmp_path, panoptic_sets.make_truth(tmp_path, 0, images=1))
    yield name
    panoptic_sets.unregister(name)


@pytest.mark.parametrize(
    ("config", "dataset", "keys"),
    [
        ("panoptic", "synthetic_shapes_panoptic_val", ["bbox", "panoptic_seg", "segm", "sem_seg"]),
        ("panoptic", "synthetic_shapes_semantic_val", ["sem_seg"]),
        ("semantic", "synthetic_shapes_semantic_val", ["sem_seg"]),
        ("semantic", "synthetic_shapes_panoptic_val", ["sem_seg"]),
        ("instance", "synthetic_shapes_instance_val", ["bbox", "segm"]),
    ],
)
def test_models_of_each_task_are_evaluated(shapes, tmp_path, config, dataset, keys):
    """Panoptic models also as semantic ones, and semantic ones on panoptic ground truth."""
    cfg = make_cfg(tmp_path, config, "DATASETS.TEST", (dataset,))
    torch.manual_seed(0)
    evaluator = build_evaluator(cfg, dataset)
    results = inference_on_dataset(build_model(cfg), build_test_loader(cfg, dataset), evaluator)
    assert sorted(results) == keys
    if "sem_seg" in keys:
        assert 0 <= results["sem_seg"]["mIoU"] < 60
    if "panoptic_seg" in keys:
        assert (tmp_path / "inference/predictions.json").exists()


def test_only_what_the_model_predicts(shapes, tmp_path, panoptic_set, caplog):
    """Every kind of panoptic data set behaves the same."""
    of = {
        "panoptic_seg": PanopticEvaluator,
        "instances": COCOInstanceEvaluator,
        "sem_seg": SemanticEvaluator,
    }
    metadata = MetadataCatalog.get(panoptic_set)
    for evaluator_type in ("coco", "ade20k", "mapillary_vistas"):
        del metadata.evaluator_type
        metadata.evaluator_type = f"{evaluator_type}_panoptic_seg"
        for tasks in (["panoptic_seg"], ["instances"], ["sem_seg"], list(TASKS)):
            cfg = make_cfg(
                tmp_path, "panoptic", *switches(*tasks), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6
            )
            with caplog.at_level(logging.INFO, logger="mask2former.evaluation.build"):
                assert kinds(build_evaluator(cfg, panoptic_set)) == [of[task] for task in tasks]
    assert not [r for r in caplog.records if r.name.endswith(".build")]


def test_predictions_without_ground_truth_are_skipped(shapes, tmp_path, caplog):
    cfg = make_cfg(tmp_path, "panoptic")
    with caplog.at_level(logging.INFO, logger="mask2former.evaluation.build"):
        evaluator = build_evaluator(cfg, "synthetic_shapes_instance_val")
    assert kinds(evaluator) == [COCOInstanceEvaluator]
    assert "no ground truth for 'panoptic_seg'" in caplog.text
    assert "MODEL.MASK_FORMER.TEST.SEMANTIC_ON False" in caplog.text
    cfg = make_cfg(tmp_path, "panoptic", *switches("panoptic_seg"))
    with pytest.raises(ValueError, match=r"predicts only panoptic_seg: set .*INSTANCE_ON True"):
        build_evaluator(cfg, "synthetic_shapes_instance_val")
    with pytest.raises(ValueError, match=r"for sem_seg, .*TEST\.SEMANTIC_ON True"):
        build_evaluator(cfg, "synthetic_shapes_semantic_val")
    cfg.DATASETS.TEST = ("synthetic_shapes_panoptic_val",)
    check_evaluation(cfg)
    cfg.DATASETS.TEST += ("synthetic_shapes_semantic_val",)
    with pytest.raises(ValueError, match=r"for sem_seg, .*TEST\.SEMANTIC_ON True"):
        check_evaluation(cfg)


def test_another_number_of_semantic_classes(shapes, tmp_path, panoptic_set, caplog):
    """In Detectron2's "separated" sets, all things are one semantic class."""
    cfg = make_cfg(tmp_path, "panoptic", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5)
    with caplog.at_level(logging.INFO, logger="mask2former.evaluation.build"):
        assert SemanticEvaluator not in kinds(build_evaluator(cfg, panoptic_set))
    assert "has 6 semantic classes, the model 5" in caplog.text


def test_per_pixel_baselines_and_other_architectures(shapes, tmp_path, panoptic_set):
    cfg = make_cfg(tmp_path, "panoptic", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    assert kinds(build_evaluator(cfg, panoptic_set)) == [SemanticEvaluator]
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    assert len(kinds(build_evaluator(cfg, panoptic_set))) == 3
    # An augmented model may predict less than the plain one.
    assert kinds(build_evaluator(cfg, panoptic_set, tasks=["sem_seg"])) == [SemanticEvaluator]


def test_ade20k_with_847_classes(shapes, tmp_path):
    """Label maps of 16 bits, with the metadata of the built-in data set."""
    name = "test_build_evaluator_847"
    metadata = MetadataCatalog.get("ade20k_full_sem_seg_val")
    MetadataCatalog.get(name).set(
        stuff_classes=metadata.stuff_classes,
        ignore_label=metadata.ignore_label,
        evaluator_type=metadata.evaluator_type,
    )
    label_map = np.full((6, 8), 65535, np.uint16)
    label_map[:3] = 846
    Image.fromarray(label_map).save(tmp_path / "a.tif")
    records = [{"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "a.tif")}]
    DatasetCatalog.register(name, lambda: records)
    try:
        cfg = make_cfg(tmp_path, "semantic")
        evaluator = build_evaluator(cfg, name)
        scores = torch.zeros(847, 6, 8)
        scores[846, :, :4] = 1
        evaluator.reset()
        evaluator.process([{"file_name": "a.jpg"}], [{"sem_seg": scores}])
        results = evaluator.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert results["mIoU"] == results["pACC"] == 50


def test_folders_and_unknown_types(register_coco, tmp_path):
    name = register_coco(coco_sets.made_up_annotations())
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.DATASETS.TEST = (name,)
    cfg.TEST.DETECTIONS_PER_IMAGE = 50
    evaluator = build_evaluator(cfg, name)
    assert isinstance(evaluator, COCOInstanceEvaluator)
    predictions = coco_sets.perturbed(coco_sets.made_up_annotations(), 0)
    coco_sets.evaluate(evaluator, predictions)
    assert (tmp_path / "run/inference/coco_instances_results.json").exists()
    cfg.DATASETS.TEST = (name, "another")
    coco_sets.evaluate(build_evaluator(cfg, name), predictions)
    assert (tmp_path / "run/inference" / name / "coco_instances_results.json").exists()
    MetadataCatalog.get("test_coco_evaluation_unknown").evaluator_type = "mystery"
    with pytest.raises(ValueError, match=r"'mystery'; known types: .*\bcoco, "):
        build_evaluator(cfg, "test_coco_evaluation_unknown")
    MetadataCatalog.pop("test_coco_evaluation_unknown")


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("annotations", "image_id", True, "'image_id' is True"),
        ("annotations", "category_id", 10**30, "'category_id' is 1000"),
        ("annotations", "area", "9", "'area' is '9'"),
        ("annotations", "bbox", [0, 0, 10**400, 1], "'bbox' is"),
        ("annotations", "segmentation", {"size": [1, 2], "counts": "0"}, "annotation id"),
        ("images", "height", 64.0, "'height' is 64.0"),
        ("images", "id", None, "'id' is None"),
        ("categories", "name", "", "'name' is ''"),
    ],
)
def test_annotations_are_checked_before_training(shapes, tmp_path, part, key, value, message):
    """However the data set was registered."""
    path, name = tmp_path / "instances.json", "test_build_checked_before"
    content = json.loads((shapes / "annotations/instances_val.json").read_text())
    content[part][0][key] = value
    path.write_text(json.dumps(content))
    register_coco_instances(name, {}, str(path), str(shapes / "val"))
    cfg = make_cfg(tmp_path, "instance", "DATASETS.TEST", (name,))
    try:
        with pytest.raises(DatasetError, match=rf"instances\.json: .*{message}") as caught:
            check_evaluation(cfg)
        assert len(str(caught.value).splitlines()) == 1
        with pytest.raises(DatasetError, match=message):
            build_evaluator(cfg, name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
