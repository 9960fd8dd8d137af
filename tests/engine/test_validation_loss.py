"""The losses on the validation set: against the model itself, in several processes, in a run."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from support import QUICKSTART, TINY
from trained_runs import trained

from mask2former import load_config
from mask2former.data import register_synthetic
from mask2former.data.mapper import SegmentationMapper, build_mapper
from mask2former.engine import Trainer, launch
from mask2former.engine.validation_loss import ValidationLoss


def validated(cfg):
    torch.manual_seed(0)
    return ValidationLoss(cfg).compute(Trainer.build_model(cfg))


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_the_losses_are_those_of_the_model(shapes, tmp_path, task):
    cfg = load_config(str(QUICKSTART.with_stem(task)), [*TINY, "OUTPUT_DIR", str(tmp_path)])
    cfg.MODEL.RESNETS.NORM = "BN"
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    # The model in training mode, with normalisation as in inference; no layer has dropout.
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    (name,) = cfg.DATASETS.TEST
    arguments = SegmentationMapper.from_config(cfg, True) | {"augmentations": []}
    labelled, plain = SegmentationMapper(**arguments), build_mapper(cfg, is_train=False)
    wanted = []
    for number, record in enumerate(DatasetCatalog.get(name)):
        sample = labelled(record)  # images of 64 pixels, the size of inference
        assert torch.equal(sample["image"], plain(record)["image"])
        with torch.no_grad():
            losses = model([{**sample, "seed": number}])
        wanted.append({k: v.item() for k, v in losses.items()})
    found = ValidationLoss(cfg).compute(model)
    assert set(found) == {"total_loss", *wanted[0]}
    for key in wanted[0]:
        assert found[key] == pytest.approx(sum(w[key] for w in wanted) / len(wanted))
    assert found["total_loss"] == pytest.approx(sum(sum(w.values()) for w in wanted) / len(wanted))
    assert model.training and not model.backbone.stem.conv1.norm.training
    assert ValidationLoss(cfg).compute(model) == found


def test_mask_piloted_training_does_not_show(tiny_cfg):
    plain = validated(tiny_cfg)
    tiny_cfg.MODEL.MASK_FORMER.PILOTED.GROUPS = 1
    torch.manual_seed(0)
    model = Trainer.build_model(tiny_cfg)
    assert model.piloted
    assert set(ValidationLoss(tiny_cfg).compute(model)) == set(plain)
    assert model.piloted


def _validate(datasets, folder):
    register_synthetic(datasets)
    found = validated(load_config(str(QUICKSTART), TINY))
    Path(folder, f"{comm.get_rank()}_{comm.get_world_size()}").write_text(json.dumps(found))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the processes would communicate by NCCL")
def test_three_processes_with_four_images_equal_one(datasets, tmp_path):
    _validate(datasets, tmp_path)
    launch(_validate, 3, args=(datasets, tmp_path))
    found = [path.read_text() for path in tmp_path.iterdir()]
    assert len(found) == 4
    assert len(set(found)) == 1


def test_a_run_is_the_same_with_and_without_it(tiny_cfg):
    tiny_cfg.TEST.EVAL_PERIOD = 2
    plain = trained(tiny_cfg)
    tiny_cfg.TEST.VALIDATION_LOSS = True
    tiny_cfg.SOLVER.EMA_DECAY = 0.9
    tiny_cfg.OUTPUT_DIR += "_validated"
    trainer = trained(tiny_cfg)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
    lines = Path(tiny_cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    last = ValidationLoss(tiny_cfg).compute(trainer.model)
    assert written[-1]["validation/total_loss"] == last["total_loss"]
    assert written[-1]["ema/validation/total_loss"] != last["total_loss"]


def test_a_validation_set_is_needed(tiny_cfg):
    tiny_cfg.TEST.VALIDATION_LOSS = True
    tiny_cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=r"VALIDATION_LOSS needs a data set in DATASETS\.TEST"):
        Trainer(tiny_cfg)
